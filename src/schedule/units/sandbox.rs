//! The parts of the services that never differ: how they are ended, and how far they are closed.

/// How a run, which has GitLab's commands as children, is ended.
pub(super) const RUN_ENDS: &str = "# The program ends GitLab's commands by itself, so that what was sent is kept; then the rest goes.\n\
    KillMode=mixed\n\
    TimeoutStopSec=2min\n\
    # How long GitLab's commands and an upload may take is in the configuration.\n\
    TimeoutStartSec=infinity\n\
    # If one of GitLab's commands is too big for the memory, the run is to tell of it, not to be ended with it.\n\
    OOMPolicy=continue\n";

/// How an export, which has no children but `ssh`, is ended.
pub(super) const EXPORT_ENDS: &str = "KillMode=mixed\n\
    TimeoutStopSec=2min\n\
    # As long as GitLab's limits make it: how long one project may take is in the configuration.\n\
    TimeoutStartSec=infinity\n";

/// Above the folders of GitLab that a run writes to.
pub(super) const WHAT_GITLAB_WRITES: &str = "# GitLab's: its configuration and what is backed up from it, its data with the staging of a backup, its log\n\
    # files, the lock of its backups. What is missing is passed over.\n";

/// Where what is called `sendmail` puts a letter: Postfix, Exim, nullmailer, the `DragonFly` agent, `OpenSMTPD`.
pub(super) const MAIL: &str = "# For a mail that goes by the local sendmail.\n\
    ReadWritePaths=-/var/spool/postfix -/var/spool/exim4 -/var/log/exim4 -/var/spool/nullmailer\n\
    ReadWritePaths=-/var/spool/dma -/var/spool/smtpd -/var/mail\n";

/// What GitLab's commands leave of what systemd can close.
pub(super) const SANDBOX: &str = "ProtectSystem=strict\n\
    # Not hidden: archives, tokens and this program may lie in a home.\n\
    ProtectHome=read-only\n\
    PrivateTmp=yes\n\
    PrivateDevices=yes\n\
    ProtectClock=yes\n\
    ProtectControlGroups=yes\n\
    ProtectHostname=yes\n\
    ProtectKernelLogs=yes\n\
    ProtectKernelModules=yes\n\
    ProtectKernelTunables=yes\n\
    LockPersonality=yes\n\
    RestrictNamespaces=yes\n\
    RestrictRealtime=yes\n\
    # GitLab's wrappers are started by root and go down to git, gitlab-psql, registry: they need no setuid program.\n\
    NoNewPrivileges=yes\n\
    # AF_NETLINK: names and routes are looked up by it.\n\
    RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n\
    # To become other users and end their processes, to read and keep what belongs to them, to lower priorities.\n\
    CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID\n\
    CapabilityBoundingSet=CAP_KILL CAP_SETGID CAP_SETUID CAP_SYS_NICE CAP_SYS_RESOURCE CAP_AUDIT_WRITE\n\
    # Left out, since GitLab's commands would fail: RestrictSUIDSGID= (its registry's folder is setgid, and\n\
    # `strategy = \"copy\"` copies that), MemoryDenyWriteExecute= (Ruby and git compile at run time), UMask= (git must\n\
    # read what root makes), PrivateNetwork=, PrivateUsers=, ProtectProc= (who holds the lock is looked up),\n\
    # SystemCallArchitectures= (a 32-bit GitLab on a 64-bit system), SystemCallFilter= (nobody can promise).\n";

/// Nothing of GitLab's is started or read by an export, so that this one is closed further.
pub(super) const NARROW_SANDBOX: &str = "ProtectSystem=strict\n\
    # Not hidden: the configuration, tokens and this program may lie in a home.\n\
    ProtectHome=read-only\n\
    PrivateTmp=yes\n\
    PrivateDevices=yes\n\
    ProtectClock=yes\n\
    ProtectControlGroups=yes\n\
    ProtectHostname=yes\n\
    ProtectKernelLogs=yes\n\
    ProtectKernelModules=yes\n\
    ProtectKernelTunables=yes\n\
    LockPersonality=yes\n\
    MemoryDenyWriteExecute=yes\n\
    RestrictNamespaces=yes\n\
    RestrictRealtime=yes\n\
    RestrictSUIDSGID=yes\n\
    SystemCallArchitectures=native\n\
    NoNewPrivileges=yes\n\
    # AF_NETLINK: names and routes are looked up by it.\n\
    RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n\
    # To write into folders and to read keys that belong to others: a destination on this machine, the metrics.\n\
    CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_SETGID CAP_SETUID\n\
    # Left out: ProtectProc= (who holds the lock is looked up), SystemCallFilter= (of `ssh` and `sendmail` nobody can\n\
    # promise what they call).\n";

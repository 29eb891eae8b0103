# shellcheck shell=sh
# `gitlab-backup restore`: unpacks an archive into the state below STUB_ROOT/var/opt/gitlab/state, in the
# order and with the words of GitLab 17's Backup::Manager. It trusts nobody: what GitLab could not read
# fails here as well.

finish_restore() { # $1: exit status
    remove_pid_file
    exit "$1"
}

restore_failed() { # $1: what Ruby raised
    cleanup
    remove_pid_file
    printf 'rake aborted!\n%s\nTasks: TOP => gitlab:backup:restore\n(See full trace by running task with --trace)\n' "$1" >&2
    exit 1
}

# GITLAB_ASSUME_YES answers every question, force only the two that it is asked about.
ask() {
    case ${GITLAB_ASSUME_YES-} in 1 | true | yes | on | t | y) return ;; esac
    answer=
    while [ "$answer" != yes ] && [ "$answer" != no ]; do
        printf 'Do you want to continue (yes/no)? '
        if ! read -r answer; then
            cleanup
            remove_pid_file
            printf "rake aborted!\nNoMethodError: undefined method \`chomp' for nil\n/opt/gitlab/embedded/service/gitlab-rails/lib/gitlab/task_helpers.rb:52:in \`prompt'\n" >&2
            exit 1
        fi
    done
    if [ "$answer" = no ]; then
        say 'Quitting...'
        cleanup
        finish_restore 1
    fi
}

# As the user STUB_GIT_USER, whom nobody asks for a password here: only whose file it is counts.
readable_by_git() {
    if [ -z "${STUB_GIT_USER-}" ]; then return 0; fi
    mode=$(stat -c %a "$1")
    if [ "$(stat -c %U "$1")" = "$STUB_GIT_USER" ]; then
        [ $((0$mode & 0400)) != 0 ]
    elif id -Gn "$STUB_GIT_USER" | tr ' ' '\n' | grep -qxF "$(stat -c %G "$1")"; then
        [ $((0$mode & 0040)) != 0 ]
    else
        [ $((0$mode & 0004)) != 0 ]
    fi
}

unpack() {
    set -- *_gitlab_backup.tar
    if ! [ -e "$1" ]; then
        say "No backups found in $dir"
        say 'Please make sure that file name ends with _gitlab_backup.tar'
        finish_restore 1
    fi
    if [ $# -gt 1 ] && [ -z "$wanted" ]; then
        say 'Found more than one backup:'
        for name in "$@"; do say " ${name%_gitlab_backup.tar}"; done
        say 'Please specify which one you want to restore:'
        say 'rake gitlab:backup:restore BACKUP=timestamp_of_backup'
        finish_restore 1
    fi
    name=$1
    if [ -n "$wanted" ]; then name=${wanted##*/}_gitlab_backup.tar; fi
    if ! [ -e "$name" ]; then
        say "The backup file $name does not exist!"
        finish_restore 1
    fi
    say 'Unpacking backup ... '
    if ! readable_by_git "$name"; then
        printf 'tar: %s: Cannot open: Permission denied\ntar: Error is not recoverable: exiting now\n' "$name" >&2
        say 'Unpacking backup failed'
        finish_restore 1
    fi
    if ! tar -xf "$name"; then
        say 'Unpacking backup failed'
        finish_restore 1
    fi
    say 'Unpacking backup ... done'
}

check_version() {
    in_backup=$(sed -n 's/^:gitlab_version: //p' backup_information.yml)
    if [ "$in_backup" = "$version" ]; then return; fi
    # Without a time before it.
    plain 'GitLab version mismatch:'
    plain "  Your current GitLab version ($version) differs from the GitLab version in the backup!"
    plain '  Please switch to the following version and try again:'
    plain "  version: $in_backup"
    plain ''
    plain "Hint: git checkout v$in_backup"
    cleanup
    finish_restore 1
}

restore_database() {
    say 'Restoring database ... '
    if [ "$force" != yes ]; then
        say 'Be sure to stop Puma, Sidekiq, and any other process that
connects to the database before proceeding. For Omnibus
installs, see the following link for more information:
https://docs.gitlab.com/ee/raketasks/backup_restore.html#restore-for-omnibus-gitlab-installations

Before restoring the database, we will remove all existing
tables to avoid future upgrade problems. Be aware that if you have
custom tables in the GitLab database these tables and all data will be
removed.'
        ask
    fi
    if ! [ -e db/database.sql.gz ]; then
        restore_failed "Backup::Error: Source database file does not exist $dir/db/database.sql.gz"
    fi
    say 'Cleaning the database ... '
    rm -f "$state/database.sql"
    say 'done'
    if [ "$wrong" = killed ]; then kill -KILL $$; fi
    plain 'Restoring PostgreSQL database gitlabhq_production ... '
    gzip -dc db/database.sql.gz >"$state/database.sql" || restore_failed 'Backup::Error: Restore failed'
    tail -n 5 "$state/database.sql" | grep -q 'PostgreSQL database dump complete' ||
        restore_failed 'Backup::Error: Restore failed'
    # Nothing is wrong here: a Linux package always says so.
    plain 'ERROR:  must be owner of extension pg_trgm'
    plain 'ERROR:  must be owner of extension btree_gist'
    grep -oE '^(SET|ALTER TABLE|CREATE TABLE|COPY|CREATE SEQUENCE)' "$state/database.sql" | while read -r word; do plain "$word"; done
    # GitLab asks for them to be stopped, and does not look; what they write meanwhile stays.
    for service in puma sidekiq; do
        if ! down $service; then echo "-- written by $service while the database was restored" >>"$state/database.sql"; fi
    done
    say '[DONE]'
    say 'Restoring database ... done'
    if [ "$wrong" = db-errors ]; then
        printf '%s\n' "ERROR:  relation \"public.routes\" already exists" >&2
        say 'There were errors in restoring the schema. This may cause
issues if this results in missing indexes, constraints, or
columns. Please record the errors above and contact GitLab
Support if you have questions:
https://about.gitlab.com/support/'
        ask # whatever `force` says
    fi
}

# Puts one repository back. $1: its relative path, $2: HEAD, $3: bundle, $4: references, $5: hooks
restore_repository() {
    gitaly_line info 'started restore' '' "$1" "$1"
    there=$state/repositories/$1
    mkdir -p "$there"
    printf %s "$2" >"$there/HEAD"
    if [ -s "$4" ]; then
        if [ "$(head -c 12 "$3" 2>/dev/null)" != '# v2 git bun' ]; then
            gitaly_line error 'restore failed' 'manager: restore bundle: rpc error: code = Internal desc = fetch bundle: exit status 128' "$1" "$1"
            broken=$((broken + 1))
            return
        fi
        cp "$3" "$there/bundle"
        cp "$4" "$there/refs"
    elif ! [ -e "$4" ]; then
        gitaly_line warning 'skipped restore' "manager: repository skipped: read refs: doesn't exist" "$1" "$1"
        return
    fi
    if [ -e "$5" ]; then cp "$5" "$there/custom_hooks.tar"; fi
    gitaly_line info 'completed restore' '' "$1" "$1"
}

toml() { sed -n "s/^$2 = '\(.*\)'\$/\1/p" "$1"; } # the value of a key

restore_repositories() {
    say 'Restoring repositories ... '
    if down gitaly; then
        restore_failed 'GRPC::Unavailable: 14:connections to all backends failing; last error: UNKNOWN: unix:/var/opt/gitlab/gitaly/gitaly.socket: No such file or directory'
    fi
    rm -rf "$state/repositories"
    broken=0
    cd repositories || restore_failed 'Backup::Error: gitaly-backup exit status 1'
    if [ -d manifests ]; then
        # Of this backup, not of an earlier one it was built upon.
        find manifests/default -name "$backup_id.toml" | sort >../manifests.list
        while read -r manifest; do
            relative=${manifest#manifests/default/}
            relative=${relative%/"$backup_id.toml"}
            restore_repository "$relative" "$(toml "$manifest" head_reference)" "$(toml "$manifest" bundle_path)" \
                "$(toml "$manifest" ref_path)" "$(toml "$manifest" custom_hooks_path)"
        done <../manifests.list
    else
        find . -name '*.refs' | sort >../manifests.list
        while read -r refs; do
            bare=${refs#./}
            bare=${bare%.refs}
            head=refs/heads/main
            if grep -q ' refs/heads/master$' "$refs"; then head=refs/heads/master; fi
            restore_repository "$bare.git" $head "$bare.bundle" "$refs" "$bare/custom_hooks.tar"
        done <../manifests.list
    fi
    cd ..
    rm -f manifests.list
    if [ "$wrong" = repositories ]; then
        rm -rf "$state/repositories/@hashed"
        broken=$((broken + 1))
    fi
    if [ $broken -gt 0 ]; then
        printf '{"level":"fatal","msg":"restore: pipeline: %s failures encountered"}\n' $broken >&2
        restore_failed 'Backup::Error: gitaly-backup exit status 1'
    fi
    say 'Restoring repositories ... done'
}

restore_files() { # $1: part, $2: title
    say "Restoring $2 ... "
    if ! [ -e "$1.tar.gz" ]; then
        restore_failed "Backup::Error: Restore operation failed: $dir/$1.tar.gz does not exist"
    fi
    # What is there is moved out of the way first.
    mkdir -p tmp
    if [ -e "$state/$1" ]; then mv "$state/$1" "tmp/$1.$now"; fi
    mkdir -p "$state/$1"
    if ! gzip -dc "$1.tar.gz" | tar --unlink-first --recursive-unlink -C "$state/$1" -xf -; then
        restore_failed "Backup::Error: Restore operation failed: $1.tar.gz"
    fi
    say "Restoring $2 ... done"
}

restore() {
    force=${force-} wanted=${BACKUP-}
    # shellcheck disable=SC2068 # GitLab's wrapper splits them again, too
    for word in $@; do
        case $word in
        BACKUP=*) wanted=${word#*=} ;;
        force=* | FORCE=*) force=${word#*=} ;;
        GITLAB_ASSUME_YES=*) GITLAB_ASSUME_YES=${word#*=} ;;
        [A-Za-z_]*=*) ;;
        *)
            printf "rake aborted!\nDon't know how to build task '%s' (See the list of available tasks with \`rake --tasks\`)\n\n(See full trace by running task with --trace)\n" "$word" >&2
            exit 1 ;;
        esac
    done
    wrong=$(fault "${STUB_FAIL_RESTORE-}" 'gitlab-backup argv=[restore]')
    if [ "$wrong" = exit-before ] || down postgresql; then no_database; fi
    json=yes verb=restore
    mkdir -p "$dir"
    take_pid_file
    cd "$dir" || exit 1
    umask 022
    mkdir -p "$state"
    unpack
    check_version
    backup_id=$(sed -n 's/^:backup_id: //p' backup_information.yml)
    backup_id=${backup_id:-${name%_gitlab_backup.tar}}
    skip=$(sed -n "s/^:skipped: *\(.*\)\$/\1/p" backup_information.yml | tr -d "'")
    if ! skipped db; then restore_database; fi
    case $wrong in
    hang | hang-term) hang "$wrong"; exit 1 ;;
    slow) hang ;;
    aborts) restore_failed 'Errno::ENOSPC: No space left on device @ rb_sysopen' ;;
    esac
    if ! skipped repositories; then restore_repositories; fi
    for task in $tasks; do
        if [ $task = registry ]; then say "Restoring $(title $task) ... [DISABLED]"; continue; fi
        if ! skipped $task; then restore_files $task "$(title $task)"; fi
    done
    if [ "$force" != yes ]; then
        plain 'This task will now rebuild the authorized_keys file.'
        plain 'You will lose any data stored in the authorized_keys file.'
        ask
    fi
    mkdir -p "$STUB_ROOT/var/opt/gitlab/.ssh"
    echo '# Managed by gitlab-shell' >"$STUB_ROOT/var/opt/gitlab/.ssh/authorized_keys"
    echo "${name%_gitlab_backup.tar}" >>"$STUB_ROOT/restored"
    cleanup
    say 'Warning: Your gitlab.rb and gitlab-secrets.json files contain sensitive data '
    plain 'and are not included in this backup. You will need to restore these files manually.'
    say 'Restore task is done.'
    remove_pid_file
}

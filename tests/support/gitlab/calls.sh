# shellcheck shell=sh
# What GitLab's stand-ins share: what they note about a call, and what goes wrong at which one.

# Not in a command substitution: that would put its pipe where a closed stdin was.
stdin=
see_stdin() {
    if ! [ -e "/proc/$$/fd/0" ]; then stdin=closed; return; fi
    if [ "$(readlink "/proc/$$/fd/0")" = /dev/null ]; then stdin=null; return; fi
    if [ -t 0 ]; then stdin='tty'; return; fi
    if [ "${1-}" = restore ]; then stdin=answers; return; fi # it has questions: they are left to it
    timeout 0.2 cat >/dev/null 2>&1
    if [ $? = 124 ]; then stdin=open; else stdin=ended; fi
}

record() {
    see_stdin "$@"
    stat=$(cat "/proc/$$/stat")
    line="${0##*/} argv="
    for word in "$@"; do line="${line}[$(printf %s "$word" | tr '\n\t' '??')]"; done
    line="$line cwd=$(pwd -P) stdin=$stdin nice=$(nice)"
    line="$line ionice=$(ionice -p $$ 2>/dev/null | tr ' ' '-')"
    if [ -n "${GITLAB_ASSUME_YES-}" ]; then line="$line assume_yes=$GITLAB_ASSUME_YES"; fi
    set -f
    # shellcheck disable=SC2086 # the fields after the name: state, parent, group, session
    set -- ${stat##*) }
    set +f
    line="$line pid=$$ ppid=$2 pgid=$3 sid=$4"
    names=$(tr '\0' '\n' <"/proc/$$/environ" | grep -o '^[A-Za-z_][A-Za-z0-9_]*=' | tr -d = | sort | tr '\n' ',')
    printf '%s env=%s\n' "$line" "${names%,}" >>"$STUB_ROOT/calls.log"
    {
        printf '== %s %s\n' "${0##*/}" "$$"
        tr '\0' '\n' <"/proc/$$/environ"
    } >>"$STUB_ROOT/env.log"
}

# What goes wrong at this call. $1: `hang`, or `hang@2` for the second call only; $2: what such a call
# begins with in calls.log, this one included.
fault() {
    case $1 in
    *@*)
        calls=$(grep -cF "$2" "$STUB_ROOT/calls.log")
        if [ "$calls" = "${1##*@}" ]; then printf %s "${1%@*}"; fi ;;
    *) printf %s "$1" ;;
    esac
}

# A fault nobody knows would be none at all, and a test that believes in it could not fail. $1: a name,
# `@2` behind it or not; $2: those that exist.
known_fault() {
    case " $2 " in *" ${1%@*} "*) return ;; esac
    if [ -n "$1" ]; then
        echo "${0##*/}: the stand-in knows no fault \`$1\`, but: $2" >&2
        exit 70
    fi
}

# Waits as long as it is told, like a disk that does not answer.
hang() {
    if [ "${1-}" = hang-term ]; then trap '' TERM; fi # the child inherits this
    # shellcheck disable=SC2016 # for the inner shell
    sh -c 'echo $$ >>"$1/pids"; exec sleep "$2"' stub "$STUB_ROOT" "${STUB_HANG:-600}"
}

down() { [ -e "$STUB_ROOT/down/$1" ]; }

# GitLab's version: as told, or as installed.
installed_version() {
    cat "$STUB_ROOT/opt/gitlab/embedded/service/gitlab-rails/VERSION" 2>/dev/null || echo 17.8.2
}

# What reconfigure has yet to make: GitLab's wrappers cannot do without.
need_reconfigure() {
    if [ -e "$STUB_ROOT/opt/gitlab/version-manifest.txt" ] && ! [ -e "$STUB_ROOT/opt/gitlab/etc/gitlab-rails-rc" ]; then
        echo "$0: could not load /opt/gitlab/etc/gitlab-rails-rc"
        echo 'Either you are not allowed to read the file, or it does not exist yet.'
        echo 'You can generate it with:   sudo gitlab-ctl reconfigure'
        exit 2
    fi >&2
}

no_database() {
    printf 'rake aborted!\nActiveRecord::ConnectionNotEstablished: connection to server on socket "/var/opt/gitlab/postgresql/.s.PGSQL.5432" failed: No such file or directory\n\tIs the server running locally and accepting connections on that socket?\n\nCaused by:\nPG::ConnectionBad: connection to server on socket "/var/opt/gitlab/postgresql/.s.PGSQL.5432" failed: No such file or directory\n' >&2
    exit 1
}

# shellcheck shell=bash disable=SC2154
# The cluster's processes by their names: which one it is, and that it is still the one that was started. A number alone is not enough: after
# a reboot it is somebody else's.

# remember NAME PID
remember() { echo "$2 $(started_at "$2")" >"$state/run/$1.pid"; }

# process_of NAME: its process id; fails when it does not run.
process_of() {
    local pid started
    read -r pid started 2>/dev/null <"$state/run/$1.pid" || return 1
    [ -n "$started" ] && [ "$(started_at "$pid")" = "$started" ] && echo "$pid"
}

runs() { process_of "$1" >/dev/null; }

# end_process NAME: ends it, and with the first process of a namespace all others in it; returns when it is gone, and its ports are free. Fails
# when it does not run.
end_process() {
    local pid tries=0
    pid=$(process_of "$1") || return 1
    kill -9 "$pid" 2>/dev/null || true
    while runs "$1"; do
        tries=$((tries + 1))
        [ $tries -le 1500 ] || die "$1 (process $pid) is still there 30 s after it was killed: the kernel holds it; see /proc/$pid/stack"
        sleep 0.02
    done
    rm -f "$state/run/$1.pid"
}

# When a process was started, in the kernel's ticks, and in which run of the kernel.
started_at() {
    local line fields
    line=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    # The name of the program may have blanks in it. A process that has ended and is not waited for is none.
    read -ra fields <<<"${line##*) }"
    [ "${fields[0]}" = Z ] || echo "${fields[19]}-$(cat /proc/sys/kernel/random/boot_id)"
}

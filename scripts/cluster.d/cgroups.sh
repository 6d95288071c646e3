# shellcheck shell=bash disable=SC2154
# The control groups of nodes, in either version of the kernel's hierarchies.

cgroups=/sys/fs/cgroup

# The roots of the hierarchies in which the kubelets make their groups: the one of version 2, or those of version 1, with a further one of version 2
# beside them on machines that have both.
cgroup_roots() {
    if [ -e "$cgroups/cgroup.controllers" ]; then
        echo "$cgroups"
    else
        local folder
        for folder in "$cgroups"/*/; do
            if [ -e "$folder/cgroup.procs" ]; then echo "${folder%/}"; fi
        done
    fi
}

# join_cgroups GROUP: this process goes into this group of each hierarchy. In version 2 a group that hands controllers on may have no process itself:
# there it is one below.
join_cgroups() {
    local root group
    for root in $(cgroup_roots); do
        group=$root$1
        [ -e "$group/cgroup.procs" ] || continue
        if [ -e "$group/cgroup.controllers" ]; then
            group=$group/node
            mkdir -p "$group"
        fi
        echo $$ >"$group/cgroup.procs"
    done
}

# make_cgroups N: the groups of a node, in which its processes and the kubelet's groups will be.
make_cgroups() {
    local root group file controller controllers above missing
    for root in $(cgroup_roots); do
        mkdir -p "$root/waypost-cluster"
        # A new group of cpuset has no CPUs, and cannot be joined, until it has its parent's.
        for group in waypost-cluster "waypost-cluster/$name-node$1"; do
            mkdir -p "$root/$group"
            for file in cpuset.cpus cpuset.mems; do
                [ -e "$root/$group/$file" ] && [ -e "$root/$file" ] && cat "$root/$file" >"$root/$group/$file"
            done
            # One at a time: what is not to be had would be the end of all of them.
            if [ -e "$root/cgroup.controllers" ]; then
                read -ra controllers <"$root/cgroup.controllers"
                for controller in "${controllers[@]}"; do
                    for above in "$root" "$root/waypost-cluster" "$root/$group"; do
                        echo "+$controller" 2>/dev/null >"$above/cgroup.subtree_control" || true
                    done
                done
            fi
        done
    done
    missing=$(missing_controllers "/waypost-cluster/$name-node$1")
    [ -z "$missing" ] || die "the control groups of this machine (version 2) do not hand on: $missing. The kubelet needs them. Usual: processes in the \
root group of a container, which keep it from handing on anything; move them into a group of their own: \
mkdir $cgroups/init; while read -r id; do echo \$id >$cgroups/init/cgroup.procs; done <$cgroups/cgroup.procs"
}

# missing_controllers GROUP: what the kubelet needs and does not have in this group, where there is version 2 alone.
missing_controllers() {
    local controller missing=()
    [ -e "$cgroups/cgroup.controllers" ] || return 0
    for controller in cpu cpuset memory pids; do
        grep -qw "$controller" "$cgroups$1/cgroup.subtree_control" || missing+=("$controller")
    done
    echo "${missing[*]}"
}

# Whatever is still in the node's groups, after a half start say, is the node's and ends with it.
remove_cgroups() {
    local root group tries
    for root in $(cgroup_roots); do
        group=$root/waypost-cluster/$name-node$1
        # shellcheck disable=SC2038 # what is printed are process ids
        for tries in $(seq 200); do
            [ -d "$group" ] || break
            find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null | grep -vx 0 | xargs -r kill -9 2>/dev/null || true
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
            [ "$tries" = 1 ] || sleep 0.05
        done
        rmdir "$root/waypost-cluster" 2>/dev/null || true
    done
}

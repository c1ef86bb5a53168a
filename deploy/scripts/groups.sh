# Sourced: the control groups that the hosts of a lab leave behind. In the hybrid hierarchy their systemd makes some that
# the engine knows nothing of.

# Removes the empty groups of containers that are gone: ids, one a line on standard input.
remove_groups() {
    local id group
    while read -r id; do
        for group in /sys/fs/cgroup/docker/"$id" /sys/fs/cgroup/*/docker/"$id" /sys/fs/cgroup/*/docker-"$id".scope; do
            [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
        done
    done
}

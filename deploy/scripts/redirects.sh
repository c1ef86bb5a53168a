# What an agent's warm swap left in the kernel, for scripts that clean up. To be sourced. Needs root and `nft`.

# The tables of the redirects that containers, their ids on stdin, tell of.
redirects_of() {
    # One that vanishes meanwhile is as good as none.
    { xargs -r docker inspect --format '{{index .Config.Labels "sternway.order"}}' 2>/dev/null || true; } |
        tr -d - | awk 'length == 32' | sort -u |
        while read -r order; do
            if nft list table ip "sternway_$order" >/dev/null 2>&1; then echo "sternway_$order"; fi
        done
}

# TABLE: takes a redirect away that nobody else will, and lets its bridge be as it was before.
take_redirect_away() {
    local bridge
    { nft list table ip "$1" 2>/dev/null || true; } | sed -n 's/^[[:space:]]*chain localnet_0_\([^ ]*\).*/\1/p' |
        while read -r bridge; do
            nft delete table ip "$1" 2>/dev/null || true
            # Another redirect may need it.
            nft list chains ip | grep -q "chain localnet_[01]_$bridge " ||
                echo 0 >"/proc/sys/net/ipv4/conf/$bridge/route_localnet" || true
        done
    nft delete table ip "$1" 2>/dev/null || true
}

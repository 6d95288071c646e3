#!/bin/sh
# Runs systemd-resolved as it runs on a machine, in a mount namespace of its own: resolved.sh PROGRAM-FOLDER SERVER
# It takes its privileges from root and gives them away, which needs more users than a lab has: so it is nobody's program from the start.
set -e
mount -t tmpfs none /run
mkdir -p /run/systemd/resolve /run/conf
echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start
echo 'systemd-resolve:x:1000:1000::/:/bin/false' >/run/passwd
echo 'systemd-resolve:x:1000:' >/run/group
printf '[Resolve]\nDNS=%s\nFallbackDNS=\nDomains=~.\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\n' "$2" >/run/conf/resolved.conf
mount --bind /run/passwd /etc/passwd
mount --bind /run/group /etc/group
mount --bind /run/conf /etc/systemd
LD_LIBRARY_PATH=$1 exec unshare --user --map-user=1000 --map-group=1000 --keep-caps "$1/systemd-resolved"

# shellcheck shell=bash disable=SC2154
# Container images, made here: folders packed as archives that containerd imports.

# add_program ROOTFS PROGRAM…: the programs and the libraries that they load, at their own paths.
add_program() {
    local root=$1 program file
    shift
    for program in "$@"; do
        program=$(readlink -f "$(command -v "$program")") || die "$program is missing"
        mkdir -p "$root$(dirname "$program")"
        cp "$program" "$root$program"
        # The names under which the loader looks for them, not what links of the host lead to.
        for file in $(ldd "$program" 2>/dev/null | grep -oE '/[^ ]+' || true); do
            mkdir -p "$root$(dirname "$file")"
            cp --dereference "$file" "$root$file"
        done
    done
}

# pack_image NAME ROOTFS ENTRYPOINT: one layer with everything, in the format of docker save.
pack_image() {
    local image=$1 root=$2 entrypoint=$3 work digest
    work=$(mktemp -d -p "$images")
    tar --create --file "$work/layer.tar" --directory "$root" --sort=name --owner=0 --group=0 --numeric-owner .
    digest=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
    jq -n --arg layer "sha256:$digest" --arg entrypoint "$entrypoint" --arg arch "$(dpkg --print-architecture 2>/dev/null || echo amd64)" \
        '{architecture: $arch, os: "linux", rootfs: {type: "layers", diff_ids: [$layer]},
          config: {Entrypoint: [$entrypoint], Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}}' >"$work/config.json"
    jq -n --arg name "$image" '[{Config: "config.json", RepoTags: [$name], Layers: ["layer.tar"]}]' >"$work/manifest.json"
    tar --create --file "$work/image.tar" --directory "$work" manifest.json config.json layer.tar
    mv "$work/image.tar" "$images/$(basename "${image%%:*}").tar"
    rm -rf "$work"
}

# is_packed NAME MADE-FROM…: whether the archive is newer than everything in it.
is_packed() {
    local archive=$images/$1.tar file
    shift
    [ -e "$archive" ] || return 1
    for file in "$@" scripts/cluster.d/images.sh; do [ "$archive" -nt "$file" ] || return 1; done
}

# What every cluster has: the pause container of pods, and a toolbox for pods that serve, ask and make load.
make_images() {
    local root
    mkdir -p "$images"
    if ! is_packed pause; then
        root=$(mktemp -d -p "$images")
        echo 'int pause(void); int main(void) { for (;;) pause(); }' | cc -static -Os -x c -o "$root/pause" -
        pack_image localhost/pause:1 "$root" /pause
        rm -rf "$root"
    fi
    if ! is_packed toolbox target/tools/agnhost target/tools/cluster-toolbox; then
        echo "Packing the image localhost/toolbox:1 …"
        root=$(mktemp -d -p "$images")
        mkdir -p "$root"/{bin,tmp,etc}
        add_program "$root" busybox curl dig
        local applet
        for applet in $(busybox --list); do ln -sf "$(command -v busybox)" "$root/bin/$applet"; done
        cp target/tools/agnhost "$root/agnhost"
        cp target/tools/cluster-toolbox "$root/bin/"
        pack_image localhost/toolbox:1 "$root" /agnhost
        rm -rf "$root"
    fi
}

stock_images() {
    local root
    if ! is_packed kube-proxy target/tools/kube-proxy; then
        echo "Packing the image localhost/kube-proxy:1 …"
        root=$(mktemp -d -p "$images")
        mkdir -p "$root"/{tmp,etc,usr/local/bin}
        add_program "$root" nft
        cp target/tools/kube-proxy "$root/usr/local/bin/"
        pack_image localhost/kube-proxy:1 "$root" /usr/local/bin/kube-proxy
        rm -rf "$root"
    fi
    if ! is_packed coredns target/tools/coredns; then
        echo "Packing the image localhost/coredns:1 …"
        root=$(mktemp -d -p "$images")
        mkdir -p "$root"/etc
        cp target/tools/coredns "$root/coredns"
        pack_image localhost/coredns:1 "$root" /coredns
        rm -rf "$root"
    fi
}

# What behaves as NodeLocal DNSCache: that is CoreDNS, with a link and rules of its own.
node_local_dns_image() {
    local root
    is_packed node-local-dns target/tools/coredns scripts/cluster.d/node-local-dns && return
    echo "Packing the image localhost/node-local-dns:1 …"
    root=$(mktemp -d -p "$images")
    mkdir -p "$root"/{bin,etc,tmp}
    add_program "$root" busybox nft ip
    local applet
    for applet in sh sleep wget; do ln -s "$(command -v busybox)" "$root/bin/$applet"; done
    cp target/tools/coredns "$root/coredns"
    cp scripts/cluster.d/node-local-dns "$root/node-cache"
    pack_image localhost/node-local-dns:1 "$root" /node-cache
    rm -rf "$root"
}

# The image as users build it, but without optimisation unless PROFILE=release: that takes minutes.
waypost_image() {
    scripts/image "${PROFILE:-dev}"
    cmp -s target/image/waypost.tar "$images/waypost.tar" || cp target/image/waypost.tar "$images/waypost.tar"
}

# Brings images that were made after the nodes were started onto them.
load_images() {
    local number image
    for number in 1 2 3 4 5 6; do
        runs "node$number" || continue
        for image in "$images"/*.tar; do on_node "$number" scripts/cluster.d/import-image "$image"; done
    done
}

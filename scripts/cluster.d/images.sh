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

# pack_image NAME[,NAME…] ROOTFS ENTRYPOINT: one layer with everything, in the format of docker save.
pack_image() {
    local root=$2 entrypoint=$3 image names work digest
    IFS=, read -ra names <<<"$1"
    image=${names[0]}
    work=$(mktemp -d -p "$images")
    tar --create --file "$work/layer.tar" --directory "$root" --sort=name --owner=0 --group=0 --numeric-owner .
    digest=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
    jq -n --arg layer "sha256:$digest" --arg entrypoint "$entrypoint" --arg arch "$(dpkg --print-architecture 2>/dev/null || echo amd64)" \
        '{architecture: $arch, os: "linux", rootfs: {type: "layers", diff_ids: [$layer]},
          config: {Entrypoint: [$entrypoint], Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}}' >"$work/config.json"
    jq -n '[{Config: "config.json", RepoTags: $ARGS.positional, Layers: ["layer.tar"]}]' --args "${names[@]}" >"$work/manifest.json"
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

# make_image NAME[,ALIAS] FILL ENTRYPOINT MADE-FROM…: the image localhost/NAME:1 of what FILL puts into a folder, unless it is there already.
make_image() {
    local name=${1%%,*} alias=${1#"${1%%,*}"} fill=$2 entrypoint=$3 root
    shift 3
    is_packed "$name" "$@" && return
    echo "Packing the image localhost/$name:1 …"
    root=$(mktemp -d -p "$images")
    mkdir -p "$root"/{bin,etc,tmp}
    "$fill" "$root"
    pack_image "localhost/$name:1$alias" "$root" "$entrypoint"
    rm -rf "$root"
}

# What every cluster has: the pause container of pods, and a toolbox for pods that serve, ask and make load.
make_images() {
    mkdir -p "$images"
    make_image pause fill_pause /pause
    # By the second name for the documents, whose readers have the original of its main program.
    make_image toolbox,registry.k8s.io/e2e-test-images/agnhost:2.63.0 fill_toolbox /agnhost target/tools/agnhost target/tools/cluster-toolbox
}

fill_pause() {
    echo 'int pause(void); int main(void) { for (;;) pause(); }' | cc -static -Os -x c -o "$1/pause" -
}

fill_toolbox() {
    add_program "$1" busybox curl dig
    # shellcheck disable=SC2046 # names without blanks
    add_applets "$1" $(busybox --list)
    cp target/tools/agnhost "$1/agnhost"
    cp target/tools/cluster-toolbox "$1/bin/"
}

# add_applets ROOTFS APPLET…: names by which busybox does what they say.
add_applets() {
    local root=$1 applet
    shift
    for applet in "$@"; do ln -sf "$(command -v busybox)" "$root/bin/$applet"; done
}

stock_images() {
    make_image kube-proxy fill_kube_proxy /usr/local/bin/kube-proxy target/tools/kube-proxy
    make_image coredns fill_coredns /coredns target/tools/coredns
}

fill_kube_proxy() {
    add_program "$1" nft
    mkdir -p "$1/usr/local/bin"
    cp target/tools/kube-proxy "$1/usr/local/bin/"
}

fill_coredns() { cp target/tools/coredns "$1/coredns"; }

# What behaves as NodeLocal DNSCache: that is CoreDNS, with a link and rules of its own.
node_local_dns_image() {
    make_image node-local-dns fill_node_local_dns /node-cache target/tools/coredns scripts/cluster.d/node-local-dns
}

fill_node_local_dns() {
    add_program "$1" busybox nft ip
    add_applets "$1" sh sleep wget
    cp target/tools/coredns "$1/coredns"
    cp scripts/cluster.d/node-local-dns "$1/node-cache"
}

# What Kubernetes' own tests have in their pods, by the names that those of the network ask for, in a registry that KUBE_TEST_REPO_LIST puts in
# the place of theirs: one image for nearly all of them.
e2e_images() {
    local registry=localhost/e2e names
    names=$(printf ",$registry/%s" agnhost:2.63.0 agnhost:2.55 busybox:1.37.0-1 glibc-dns-testing:2.0.0 distroless-iptables:v0.9.6)
    make_image "e2e$names" fill_e2e /agnhost target/tools/agnhost target/tools/coredns
    make_image "e2e-invalid,$registry/regression-issue-74839:1.4" fill_e2e_invalid /regression-issue-74839 target/tools/regression-issue-74839
}

# A server that sends packets outside of the window of its connections.
fill_e2e_invalid() { cp target/tools/regression-issue-74839 "$1/regression-issue-74839"; }

fill_e2e() {
    local program
    add_program "$1" busybox bash conntrack curl dash dig getent nc.openbsd ss wget
    # shellcheck disable=SC2046 # names without blanks
    add_applets "$1" $(busybox --list)
    # Not busybox's, which lack what the tests use of them; a shell that has no applets of its own runs these.
    for program in bash conntrack curl dig getent ss wget; do ln -sf "$(readlink -f "$(command -v "$program")")" "$1/bin/$program"; done
    ln -sf "$(readlink -f "$(command -v dash)")" "$1/bin/sh"
    ln -sf "$(readlink -f "$(command -v nc.openbsd)")" "$1/bin/nc"
    cp target/tools/agnhost "$1/agnhost"
    cp target/tools/coredns "$1/coredns"
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

# shellcheck shell=bash
# Sourced by tools/pgdemo and tools/dbdemo: two machines with a disk of 1 GiB each and a client, in namespaces, and a device
# on one of them.
#
# The script that sources this has `dir`, a folder of its own, and `programs`, where Tandem's are; it defines fail(), and ends
# with let_go_of_all.

dir=${dir-}
started=$EPOCHREALTIME
declare -A first=() address=([alice]=10.76.0.1 [bob]=10.76.0.2 [client]=10.76.0.100 [guest]=10.76.0.101) loop=()
# What was attached last.
device=''

since() { awk -v a="$1" -v b="${2:-$EPOCHREALTIME}" 'BEGIN { printf "%.2f", b - a }'; }
say() { printf '\n\033[1m[%4.0f s] %s\033[0m\n' "$(since "$started")" "$*"; }

# until_true SECONDS WHAT COMMAND...: asks again and again.
until_true() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [[ $SECONDS -lt $end ]] || fail "waited in vain: $what; the logs are in $dir"
        sleep 0.02
    done
}

# --- machines ------------------------------------------------------------------------------------

# A machine is a tree of processes in namespaces of its own; its first one killed is its power cut.
boot() { # NAME
    local name=$1 parent pid
    # shellcheck disable=SC2016
    setsid unshare --fork --pid --mount --net --uts --propagation private bash -c '
        mount -t proc proc /proc
        mount -t tmpfs -o mode=755 tmpfs /run
        mkdir -p /run/tandem /run/postgresql /run/db
        chown postgres: /run/postgresql
        hostname "$1"
        ip link set lo up
        : >"$2/$1/up"
        exec sleep infinity' init "$name" "$dir" </dev/null >>"$dir/$name/console" 2>&1 &
    parent=$!
    until_true 10 "$name boots" test -e "$dir/$name/up"
    rm "$dir/$name/up"
    read -r pid _ <"/proc/$parent/task/$parent/children" || [[ $pid ]]
    first[$name]=$pid
    disown "$parent"
    [[ $name != client ]] || return 0
    network ip link del "v$name" 2>/dev/null || true
    network ip link add "v$name" type veth peer name eth0 netns "$pid"
    network ip link set "v$name" master br0 up
    on "$name" ip addr add "${address[$name]}/24" dev eth0
    on "$name" ip link set eth0 up
}

# on MACHINE COMMAND...
on() {
    [[ $1 != guest ]] || { in_guest "${@:2}" && return; return 1; }
    local pid=${first[$1]}
    shift
    nsenter -t "$pid" -m -u -n -p --wd=/ -- "$@"
}

# The client's network, seen from this host: machines are joined there.
network() { nsenter -t "${first[client]}" -n -- "$@"; }

power_cut() { # MACHINE
    kill -KILL "${first[$1]}"
    while [[ -d /proc/${first[$1]} ]]; do sleep 0.005; done
    unset "first[$1]"
}

# Its loop device would have gone with a real machine's kernel.
let_go_of_loop() { # MACHINE
    [[ ! ${loop[$1]:-} ]] || losetup -d "${loop[$1]}" 2>/dev/null || true
    unset "loop[$1]"
}

adm() { # MACHINE VERB...
    local name=$1
    shift
    on "$name" "$programs/tandemadm" -c "$dir/tandem.conf" --state-dir "$dir/$name/state" --node "$name" "$@"
}

daemon() { # MACHINE
    on "$1" setsid "$programs/tandemd" -c "$dir/tandem.conf" --node "$1" --state-dir "$dir/$1/state" \
        --nbd-listen "${address[$1]}:10809" --nbd-insecure </dev/null >>"$dir/$1/log" 2>&1 &
    disown $!
    until_true 20 "$1's tandemd answers" adm "$1" status
}

other() { [[ $1 == alice ]] && echo bob || echo alice; }

# --- the device ---------------------------------------------------------------------------------------

attach() { # MACHINE WORDS...
    local name=$1 said
    shift
    local kind=--fuse
    [[ $name != guest ]] || kind=--connections=1
    said=$(adm "$name" device attach "$kind" "$@" r0) || fail "$name: no device: $said"
    device=$(awk '{print $3}' <<<"$said")
    [[ $name == guest ]] || loop[$name]=$device
}

mounted() { on "$1" mount -t ext4 -o discard "$device" /run/db; }


resource() {
    local name
    echo "resource r0 {"
    echo "    net { protocol C; ping-int 2; timeout 30; connect-int 1; }"
    for name in alice bob; do
        echo "    on $name {"
        echo "        node-id $([[ $name == alice ]] && echo 0 || echo 1); address ${address[$name]}:7789;"
        echo "        volume 0 { device minor 0; disk $dir/$name.img; meta-disk internal; }"
        echo "    }"
    done
    echo "}"
}

# The dead machine comes back, and is resynced.
rejoin() { # MACHINE
    boot "$1"
    daemon "$1"
    adm "$1" up r0
    adm "$1" wait-sync --wfc-timeout 120 r0
}

promoted() { adm "$1" primary r0; }

# Both nodes in sync, alice is Primary, and nothing is on the device yet.
two_machines() {
    local name
    mkdir "$dir"/{alice,bob,client}
    resource >"$dir/tandem.conf"
    boot client
    network ip link add br0 type bridge
    network ip addr add "${address[client]}/24" dev br0
    network ip link set br0 up
    for name in alice bob; do
        truncate -s 1G "$dir/$name.img"
        boot "$name"
        daemon "$name"
        adm "$name" create-md r0 >/dev/null 2>&1
        adm "$name" up r0
    done
    adm alice wait-connect --wfc-timeout 30 r0
    adm alice new-current-uuid --clear-bitmap r0
    adm alice primary r0
}

let_go_of_all() {
    local name
    for name in client alice bob; do
        [[ ! ${first[$name]:-} ]] || power_cut "$name"
        let_go_of_loop "$name"
    done
}

# Every block of both disks, by a verify.
both_are_equal() { # PRIMARY
    adm "$1" verify r0 >/dev/null
    adm "$1" wait-sync --wfc-timeout 120 r0
    [[ $(adm "$1" status --json r0 | awk -F'[:,]' '/"out-of-sync"/ { sum += $2 } END { print sum + 0 }') == 0 ]]
}

# What the machines take of this host.
need_machines() {
    [[ $(id -u) -eq 0 ]] || fail "only root makes namespaces, mounts and loop devices"
    need ip:iproute2 mke2fs:e2fsprogs e2fsck:e2fsprogs losetup:mount runuser:util-linux
}
need_fuse() {
    { exec 3<>/dev/fuse; } 2>/dev/null || fail "there is no /dev/fuse: it takes the kernel's module fuse"
    { exec 3<>/dev/loop-control; } 2>/dev/null || fail "there is no /dev/loop-control: it takes the kernel's module loop"
    exec 3<&-
}
need_programs() {
    programs=${TANDEM_PROGRAMS:-}
    if [[ ! $programs ]]; then
        need_rust
        echo "building ..."
        build release --bins
        programs=$PWD/target/release
    fi
    programs=$(realpath "$programs")
}

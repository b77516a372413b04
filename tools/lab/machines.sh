# shellcheck shell=bash
# Sourced by tools/cluster: the laboratory's machines, its two networks and its power switch.
#
# A machine is a tree of processes in namespaces of its own (PID, mount, network, UTS, IPC). Its first
# process only reaps, and killing it is a power cut: everything dies at once. /run, /dev/shm, /etc,
# /var/lib/corosync, /var/lib/pacemaker and /var/log are its own; the rest of the file system is this host's.
# Two bridges stand in a namespace of their own, the "switch": eth0 10.77.0.N is for the cluster and
# clients, eth1 10.78.0.N for replication. Nothing of this host's network, /etc and /run is touched.

# The script that sources this: machines and the power switch run it again.
self=${self:?}
# Short: the paths of Unix sockets are.
lab=${TANDEM_CLUSTER:-/var/tmp/tandem-cluster}
# Who has a copy; and who is a member of the cluster: with a third one, that votes only.
nodes=(alice bob)
members=(alice bob)
declare -A number=([alice]=1 [bob]=2 [carol]=3 [client]=100)
has_copy() { [[ " ${nodes[*]} " == *" $1 "* ]]; }

# The first process of a machine, as this host sees it; fails where the machine is off.
first_process() {
    local pid
    pid=$(cat "$lab/$1/pid" 2>/dev/null) && [[ -d /proc/$pid ]] && echo "$pid"
}

# on MACHINE COMMAND...: runs a command there.
on() {
    local pid
    pid=$(first_process "$1") || return 1
    shift
    nsenter -t "$pid" -m -u -i -n -p --wd=/ -- "$@"
}

switch() { nsenter -t "$(cat "$lab/switch.pid")" -n -- "$@"; }

# until_true SECONDS COMMAND...: asks again and again.
until_true() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [[ $SECONDS -lt $end ]] || return 1
        sleep 0.05
    done
}

# --- machines --------------------------------------------------------------------------------

boot() { # MACHINE
    local name=$1 folder=$lab/$1 parent pid link
    if first_process "$name" >/dev/null; then
        return
    fi
    rm -f "$folder/pid" "$folder/ready"
    setsid unshare --fork --pid --mount --uts --ipc --net --propagation private \
        bash "$self" __init "$name" </dev/null >>"$folder/log/console" 2>&1 &
    parent=$!
    until_true 10 test -e "$folder/ready" || fail "$name does not boot: $folder/log/console"
    # The line has no end.
    read -r pid _ <"/proc/$parent/task/$parent/children" || [[ $pid ]]
    echo "$pid" >"$folder/pid"
    for link in 0 1; do
        switch ip link del "v$name-$link" 2>/dev/null || true
        switch ip link add "v$name-$link" type veth peer name "eth$link" netns "$pid"
        switch ip link set "v$name-$link" master "br$link" up
        on "$name" ip addr add "10.7$((7 + link)).0.${number[$name]}/24" dev "eth$link"
        on "$name" ip link set "eth$link" up
    done
    ! has_copy "$name" || supervise "$name"
    [[ $name == client ]] || on_boot "$name"
}

# The first process of a machine, in its namespaces.
init() { # MACHINE
    local name=$1 folder=$lab/$1
    mount -t proc proc /proc
    # What a cluster does in a panic must not reach this host.
    [[ ! -e /proc/sysrq-trigger ]] || mount --bind /dev/null /proc/sysrq-trigger
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -m 1777 /run/lock
    mkdir -p /run/resource-agents /run/crm /run/postgresql /run/tandem
    chown hacluster:haclient /run/crm
    chown postgres: /run/postgresql
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    mount -t overlay -o "lowerdir=$folder/etc:/etc" overlay /etc
    mount --bind "$folder/corosync" /var/lib/corosync
    mount --bind "$folder/pacemaker" /var/lib/pacemaker
    mount --bind "$folder/log" /var/log
    mount -t overlay -o "lowerdir=$lab/sbin:/usr/sbin" overlay /usr/sbin
    mount -t overlay -o "lowerdir=$lab/ocf:/usr/lib/ocf/resource.d" overlay /usr/lib/ocf/resource.d
    hostname "$name"
    ip link set lo up
    : >"$folder/ready"
    trap 'exit 0' TERM
    while :; do
        sleep 3600 &
        wait $!
    done
}

# tandemd, as its unit has it: started at boot, and again when it has crashed; with the rights that the unit
# leaves it, which are those of its handlers as well.
supervise() { # NODE
    local rights
    rights=$(unit_rights) || fail "tools/debian/tandemd.service has no CapabilityBoundingSet="
    # No process outside waits for it: one that is frozen with it would hold up the machine's end.
    # shellcheck disable=SC2016
    on "$1" bash -c 'setsid bash -c "$1" supervise "$2" "$3" </dev/null >/dev/null 2>&1 &' start \
        'while :; do
            setpriv --bounding-set="$2" --no-new-privs \
                tandemd --state-dir "$1" --metrics-listen 0.0.0.0:9942 --metrics-insecure 2>>/var/log/tandemd
            [[ $? -ne 0 ]] || break
            sleep 1
        done' "$lab/$1/state" "$rights"
    until_true 20 answers "$1" || fail "$1: tandemd does not answer: $lab/$1/log/tandemd"
}
# The unit's bounding set, as setpriv has it.
unit_rights() {
    local line words
    line=$(grep '^CapabilityBoundingSet=CAP_' "$(dirname "$self")/debian/tandemd.service") || return 1
    read -r -a words <<<"${line#*=}"
    words=("${words[@]#CAP_}")
    words=("${words[@],,}")
    printf '%s' -all "${words[@]/#/,+}"
}
answers() { on "$1" tandemadm status >/dev/null 2>&1; }

# Corosync and Pacemaker.
join() { # NODE
    on "$1" setsid corosync </dev/null >>"$lab/$1/log/console" 2>&1 ||
        fail "corosync on $1: $lab/$1/log"
    join_pacemaker "$1"
}
join_pacemaker() { # NODE
    on "$1" bash -c 'PCMK_logfile=/var/log/pacemaker/pacemaker.log HA_LOGFACILITY=none \
        setsid pacemakerd >>/var/log/console 2>&1 </dev/null &'
}

start() {
    boot "$1"
    join "$1"
}

power_off() { # MACHINE
    local pid loops loop
    pid=$(first_process "$1") || return 0
    # Loop devices are this host's, and would stay behind.
    loops=$(grep -sho '"loop_device":"/dev/loop[0-9]*"' "/proc/$pid/root/run/tandem/"fuse-*.device || true)
    kill -KILL "$pid"
    while [[ -d /proc/$pid ]]; do sleep 0.005; done
    rm -f "$lab/$1/pid"
    for loop in $loops; do
        loop=${loop%\"}
        losetup -d "${loop##*\"}" 2>/dev/null || true
    done
}

# each_process NODE PATTERN SIGNAL: to every process of a machine but its first whose name matches.
each_process() {
    local pid
    for pid in $(on "$1" ps -e -o pid=,comm= | awk -v p="$2" '$1 > 1 && $2 != "ps" && $2 ~ p {print $1}'); do
        on "$1" kill "-$3" "$pid" 2>/dev/null || true
    done
}

# cable NODE up|down NUMBER
cable() { switch ip link set "v$1-$3" "$2"; }

# --- the power switch ----------------------------------------------------------------------------

# Answers one request of fence_lab.
power() {
    local action machine
    read -r action machine
    echo "$(date +%T.%N) $action $machine" >>"$lab/power.log"
    case $action:$machine in
    monitor:*) echo ok ;;
    list:*) printf '%s,%s\n' alice alice bob bob carol carol ;;
    *:alice | *:bob | *:carol)
        case $action in
        status) first_process "$machine" >/dev/null && echo on || echo off ;;
        off | reboot)
            power_off "$machine"
            echo ok
            ;;
        on)
            setsid bash "$self" __start "$machine" </dev/null >>"$lab/power.log" 2>&1 &
            echo ok
            ;;
        *) echo unknown ;;
        esac
        ;;
    *) echo unknown ;;
    esac
}

# The switch begins to listen.
power_switch() {
    rm -f "$lab/power.sock"
    setsid socat "UNIX-LISTEN:$lab/power.sock,fork" "EXEC:bash $self __power" </dev/null \
        >>"$lab/power.log" 2>&1 &
    echo $! >"$lab/power.pid"
}

# --- the whole -----------------------------------------------------------------------------------

corosync_conf() {
    local name
    printf '%s\n' 'totem {' 'version: 2' 'cluster_name: tandem' 'transport: knet' 'token: 1000' \
        'crypto_cipher: none' 'crypto_hash: none' '}' 'nodelist {'
    for name in "${members[@]}"; do
        printf '%s\n' 'node {' "name: $name" "nodeid: ${number[$name]}" \
            "ring0_addr: 10.77.0.${number[$name]}" '}'
    done
    printf '%s\n' '}' 'quorum {' 'provider: corosync_votequorum' \
        "two_node: $((${#members[@]} == 2))" "wait_for_all: $((${#members[@]} == 2))" '}' \
        'logging {' 'to_logfile: yes' 'logfile: /var/log/cluster/corosync.log' 'to_syslog: no' \
        'timestamp: hires' '}' 'system {' 'sched_rr: no' 'move_to_root_cgroup: no' '}'
}

# The cluster's first configuration: a quick first election, fencing.
seed_cib() {
    cat <<'XML'
<cib validate-with="pacemaker-3.8" epoch="1" num_updates="0" admin_epoch="0"><configuration><crm_config>
<cluster_property_set id="lab"><nvpair id="lab-dc-deadtime" name="dc-deadtime" value="2s"/>
<nvpair id="lab-stonith" name="stonith-enabled" value="true"/></cluster_property_set>
</crm_config><nodes/><resources/><constraints/></configuration><status/></cib>
XML
}

hosts() {
    local name
    echo "127.0.0.1 localhost"
    for name in "${members[@]}" client; do
        echo "10.77.0.${number[$name]} $name"
    done
}

# A machine's own files.
furnish() { # MACHINE
    local folder=$lab/$1
    mkdir -p "$folder"/{etc/corosync,corosync,state,log/{pacemaker,cluster,crmsh}} \
        "$folder"/pacemaker/{cib,pengine,cores,blackbox}
    echo "$1" >"$folder/etc/hostname"
    hosts >"$folder/etc/hosts"
    ! has_copy "$1" || resource >"$folder/etc/drbd.conf"
    corosync_conf >"$folder/etc/corosync/corosync.conf"
    seed_cib >"$folder/pacemaker/cib/cib.xml"
    chmod 600 "$folder/pacemaker/cib/cib.xml"
    chown -R hacluster:haclient "$folder/pacemaker" "$folder/log/pacemaker"
}

online() { [[ $(on "$1" crm_mon -1 2>/dev/null) == *"Online: [ ${members[*]} ]"* ]]; }

# Switch, power switch and machines, in a cluster without resources.
lab_up() {
    local name link
    mkdir -p "$lab"
    for name in "${members[@]}" client; do
        furnish "$name"
    done
    setsid unshare --net sleep infinity </dev/null >/dev/null 2>&1 &
    echo $! >"$lab/switch.pid"
    until_true 5 own_network || fail "no network namespace"
    for link in 0 1; do
        switch ip link add "br$link" type bridge
        switch ip link set "br$link" up
    done
    power_switch
    for name in "${members[@]}" client; do
        boot "$name"
    done
}
own_network() {
    [[ $(readlink "/proc/$(cat "$lab/switch.pid")/ns/net") != "$(readlink /proc/self/ns/net)" ]]
}

lab_down() {
    local name pid
    for pid in power switch; do
        [[ ! -s $lab/$pid.pid ]] || kill "$(cat "$lab/$pid.pid")" 2>/dev/null || true
        rm -f "$lab/$pid.pid"
    done
    for name in alice bob carol client; do
        power_off "$name"
    done
}

# shellcheck shell=bash
# Sourced by tools/cluster: what happens to its cluster, and what has to be so afterwards.

# --- what happens to it ----------------------------------------------------------------------------

strike_power-cut() { power_off "$1"; }
# In order, as for an upgrade of it, or as a shutdown does: Pacemaker has left before Corosync.
strike_pacemaker-stop() {
    each_process "$1" '^pacemakerd$' TERM
    until_true 120 no_process "$1" pacemakerd || fail "pacemaker-stop: Pacemaker on $1 does not end"
}
strike_cluster-stop() {
    strike_pacemaker-stop "$1"
    each_process "$1" '^corosync$' TERM
    until_true 60 no_process "$1" corosync || fail "cluster-stop: Corosync on $1 does not end"
}
strike_move() { on "$1" crm node standby "$1" >/dev/null 2>&1; }
strike_crash() { each_process "$1" '^(pacemakerd|pacemaker-.*|corosync)$' KILL; }
strike_freeze() { each_process "$1" . STOP; }
strike_tandemd-killed() { each_process "$1" '^tandemd$' KILL; }
strike_tandemd-stopped() { each_process "$1" '^tandemd$' STOP; }
strike_replication-cut() { cable "$1" down 1; }

# One more client has the volume open, and no agent knows of it.
strike_held() {
    # shellcheck disable=SC2016
    on "$1" bash -c 'mkdir -p /run/holder && : >/run/holder/volume
        nbdfuse -P /run/holder/pid /run/holder/volume "nbd+unix:///r0?socket=/run/tandem/nbd.sock" \
            </dev/null >/dev/null 2>&1 &'
    until_true 10 on "$1" test -s /run/holder/pid || fail "held: nobody holds it"
    strike_move "$1"
}
# Both nodes want to fence the other one; the client reaches nobody behind the cut.
strike_cluster-cut() {
    cable "$1" down 0
    sleep 8
    # Where it was fenced there is none.
    cable "$1" up 0 2>/dev/null || true
}

# Powered off, and the power switch does not say so at first: nobody may take over.
strike_fence-fails() {
    kill "$(cat "$lab/power.pid")"
    power_off "$1"
    sleep 8
    ! served || fail "fence-fails: promoted beside a node of which nobody knows that it is off"
    # The cluster has given up, until an administrator has mended the device.
    power_switch
    on "$(other "$1")" crm_resource --cleanup >/dev/null 2>&1
}
# Moved away for a new tandemd.
strike_restart() { strike_move "$1"; }
# The client comes through HAProxy meanwhile.
strike_haproxy() { power_off "$1"; }

mend() { # NAME NODE
    local name
    case $1 in
    move) on "$2" crm node online "$2" >/dev/null 2>&1 ;;
    restart)
        each_process "$2" '^tandemd$' TERM
        until_true 30 silent "$2" || fail "restart: tandemd does not end"
        supervise "$2"
        on "$2" crm node online "$2" >/dev/null 2>&1
        ;;
    held)
        each_process "$2" '^nbdfuse$' KILL
        on "$2" umount -l /run/holder/volume || true
        on "$2" crm node online "$2" >/dev/null 2>&1
        ;;
    replication-cut) cable "$2" up 1 ;;
    pacemaker-stop) join_pacemaker "$2" ;;
    cluster-stop) join "$2" ;;
    tandemd-killed) on "$2" crm_resource --cleanup >/dev/null 2>&1 ;;
    *)
        for name in "${members[@]}"; do
            first_process "$name" >/dev/null || start "$name"
        done
        ;;
    esac
}

silent() { ! answers "$1"; }
no_process() { ! on "$1" pgrep -x "$2" >/dev/null; }
failed_promotion() { [[ $(on "$1" crm_mon -1 2>/dev/null) == *"promote on"* ]]; }

# Whether a scenario has to end on the other node: not where it is the cluster's choice.
moves() { [[ $1 != *-cut && $1 != tandemd-killed && $1 != tandemd-stopped ]] || [[ $1 == power-cut ]]; }

scenario() { # NAME
    local name=$1 node begun before now pause took=''
    until_true 60 served || fail "$name: nobody has the address"
    node=$(primary)
    [[ $name != haproxy ]] || echo 127.0.0.1 >"$lab/through"
    before=$(committed)
    until_true 30 commits_after $((before + 3)) || fail "$name: the client writes nothing"
    begun=$(date +%s.%N)
    "strike_$name" "$node"
    if moves "$name"; then
        until_true 180 is_primary "$(other "$node")" || fail "$name: $(other "$node") does not take over"
        [[ $name != *-stop ]] || ! failed_promotion "$(other "$node")" || fail "$name: a promotion has failed first"
    else
        # What was under way may still be acknowledged.
        sleep 8
    fi
    before=$(committed)
    until_true 120 commits_after $((before + 3)) || fail "$name: the client writes nothing any more"
    now=$(primary) || fail "$name: nobody has the address any more"
    pause=$(pause_since "$begun")
    ! moves "$name" || took=$(promotion "$now")
    echo "$address" >"$lab/through"
    mend "$name" "$node"
    until_true 120 member "$now" || fail "$name: $node does not come back in sync"
    row "$name" "$node" "$now" "$pause" "$took"
}
# From the cluster's order to NODE to promote it to the agent's answer, the last time, ms.
promotion() {
    on "$1" cibadmin -Q --xpath "//node_state[@uname='$1']//lrm_rsc_op[@operation='promote']" 2>/dev/null |
        grep -o ' exec-time="[0-9]*"' | tail -1 | tr -dc 0-9
}
# The longest pause between two commits from shortly before then on.
pause_since() {
    awk -v t="$1" '{ if (last > t - 2 && $2 - last > max) max = $2 - last; last = $2 }
        END { printf "%.1f", max }' "$lab/acknowledged"
}
# row NAME FROM TO PAUSE [MS]: of the table, with the time of the promotion; and nothing is lost.
row() {
    local gone
    gone=$(lost)
    printf '%-18s %-6s -> %-6s %6s s without a commit %7s commits %3s lost%s\n' \
        "$1" "$2" "$3" "$4" "$(committed)" "$gone" "${5:+, promoted in $5 ms}" | tee -a "$lab/table"
    [[ $gone == 0 ]] || fail "$1: acknowledged commits are not there"
}

# DRBD's handlers for fencing, as tandemd runs them, and its monitor: unchanged, on what runs.
drbds_tools() {
    local node
    [[ ! $own ]] || fail "drbds-tools: only without --own"
    node=$(primary)
    cable "$node" down 1
    until_true 30 alone "$node" || fail "drbds-tools: the peer is still connected"
    until_true 60 marked "$(other "$node")" || fail "crm-fence-peer.9.sh has made no constraint"
    cable "$node" up 1
    until_true 60 in_sync || fail "drbds-tools: not in sync"
    until_true 60 unmarked "$(other "$node")" || fail "crm-unfence-peer.9.sh has left its constraint"
    # drbd-attr publishes the promotion score that events2 tells.
    printf '%s\n' 'primitive attr ocf:linbit:drbd-attr' 'clone attrs attr' >"$lab/attr.crm"
    on "$node" crm -F configure load update "$lab/attr.crm" >/dev/null 2>&1 || fail "crm: drbd-attr"
    until_true 30 published "$node" || fail "drbd-attr publishes no score"
    on "$node" crm -F configure delete attrs attr >/dev/null 2>&1 || true
    # It wants a terminal, and ends with the time that it is given.
    on "$node" timeout 5 script -qc "$PWD/target/fetched/drbd-utils/sbin/drbdmon" /run/drbdmon \
        </dev/null >/dev/null 2>&1 || true
    [[ $(on "$node" cat /run/drbdmon) == *r0*Primary* ]] || fail "drbdmon shows no r0"
    echo "crm-fence-peer.9.sh, crm-unfence-peer.9.sh, drbd-attr and drbdmon ok"
}
# The replication link is cut, the Primary goes on alone, and then it loses its power: the other node
# lacks what was committed since, and is not promoted before the first one is back and it has got that.
stale() {
    local node left before begun went now
    until_true 60 served || fail "stale: nobody has the address"
    node=$(primary)
    left=$(other "$node")
    before=$(committed)
    begun=$(date +%s.%N)
    cable "$node" down 1
    until_true 60 alone "$node" || fail "stale: the peer is still connected"
    # What was under way is over, and more is acknowledged without the peer.
    until_true 60 marked "$left" || fail "stale: $left is not marked"
    before=$(committed)
    until_true 60 commits_after $((before + 20)) || fail "stale: $node does not go on alone"
    went=$(pause_since "$begun")
    power_off "$node"
    until_true 60 off "$left" "$node" || fail "stale: $node is not fenced"
    # The cluster would have promoted it within 3 s.
    for ((i = 0; i < 150; i++)); do
        # Or down for a moment: the cluster starts it anew.
        rests "$left" || fail "stale: $left was promoted, and lacks commits"
        sleep 0.1
    done
    on "$left" crm_mon -1 -r >"$lab/stale.mon" 2>&1
    start "$node"
    until_true 120 served || fail "stale: nobody is promoted when $node is back"
    # Either of them: the other one when it has got all, which is counted below.
    now=$(primary)
    before=$(committed)
    until_true 60 commits_after $((before + 3)) || fail "stale: the client writes nothing any more"
    until_true 120 member "$now" || fail "stale: $left does not come back in sync"
    until_true 60 unmarked "$left" || fail "stale: the mark of $left stays"
    row stale "$node" "$now" "$went"
}

# both_cut NAME PAUSE: the replication link is cut, and PAUSE s later the cluster's. Both fence, and one wins.
both_cut() {
    local name=$1 node left before begun now pause other_one
    [[ $own ]] || fail "$name: only with --own"
    until_true 60 served || fail "$name: nobody has the address"
    node=$(primary)
    left=$(other "$node")
    before=$(committed)
    until_true 30 commits_after $((before + 3)) || fail "$name: the client writes nothing"
    begun=$(date +%s.%N)
    cable "$node" down 1
    sleep "$2"
    cable "$node" down 0
    until_true 60 one_is_off || fail "$name: nobody is fenced"
    # Where the Primary has gone on alone and loses, nobody may take over.
    sleep 8
    for other_one in "${nodes[@]}"; do
        if first_process "$other_one" >/dev/null; then
            cable "$other_one" up 0
            cable "$other_one" up 1
        else
            start "$other_one"
        fi
    done
    until_true 120 served || fail "$name: nobody is promoted"
    before=$(committed)
    until_true 60 commits_after $((before + 3)) || fail "$name: the client writes nothing any more"
    now=$(primary)
    pause=$(pause_since "$begun")
    until_true 120 member "$now" || fail "$name: not in sync"
    until_true 60 unmarked "$left" || fail "$name: the mark of $left stays"
    until_true 60 unmarked "$node" || fail "$name: the mark of $node stays"
    row "$name" "$node" "$now" "$pause"
}
# The Primary is cut off from everything, and its copy of the cluster's configuration changes more often than
# the other one's. It loses its power, and is back with its replication link cut: what it has changed alone is
# gone, and its mark is there. It is not promoted when the other one loses its power too.
newer_configuration() {
    local node left before begun pause i
    [[ $own ]] || fail "newer-configuration: only with --own"
    until_true 60 served || fail "newer-configuration: nobody has the address"
    node=$(primary)
    left=$(other "$node")
    before=$(committed)
    until_true 30 commits_after $((before + 3)) || fail "newer-configuration: the client writes nothing"
    begun=$(date +%s.%N)
    kill "$(cat "$lab/power.pid")"
    cable "$node" down 0
    cable "$node" down 1
    until_true 60 sees_nobody "$node" || fail "newer-configuration: $node still sees $left"
    for ((i = 0; i < 20; i++)); do
        on "$node" crm_attribute -l forever -N "$node" -n lab-apart -v "$i" ||
            fail "newer-configuration: $node takes no change"
    done
    power_off "$node"
    power_switch
    on "$left" crm_resource --refresh >/dev/null 2>&1
    until_true 120 is_primary "$left" || fail "newer-configuration: $left does not take over"
    before=$(committed)
    until_true 60 commits_after $((before + 20)) || fail "newer-configuration: $left does not go on alone"
    pause=$(pause_since "$begun")
    start "$node"
    cable "$node" down 1
    until_true 120 online "$left" || fail "newer-configuration: $node does not join"
    [[ $(on "$left" crm_attribute -l forever -N "$node" -n lab-apart -G -q -d none 2>/dev/null) == none ]] ||
        fail "newer-configuration: the configuration of the node that was fenced is the cluster's"
    marked "$node" || fail "newer-configuration: $node is not marked any more"
    power_off "$left"
    until_true 60 off "$node" "$left" || fail "newer-configuration: $left is not fenced"
    for ((i = 0; i < 150; i++)); do
        rests "$node" || fail "newer-configuration: $node was promoted, and lacks commits"
        sleep 0.1
    done
    start "$left"
    cable "$node" up 1
    until_true 120 served || fail "newer-configuration: nobody is promoted when $left is back"
    before=$(committed)
    until_true 60 commits_after $((before + 3)) || fail "newer-configuration: the client writes nothing any more"
    until_true 120 member "$left" || fail "newer-configuration: not in sync"
    until_true 60 unmarked "$node" || fail "newer-configuration: the mark of $node stays"
    row newer-configuration "$node" "$(primary)" "$pause"
}
sees_nobody() { [[ $(on "$1" crm_node --partition 2>/dev/null) != *" "*[a-z]* ]]; }
one_is_off() { ! { first_process alice && first_process bob; } >/dev/null; }
# What keeps NODE from being promoted: its mark; or the constraint of crm-fence-peer.9.sh, of which the node says nothing.
mark() {
    if [[ $own ]]; then
        on "$1" crm_attribute -l forever -N "$1" -n tandem-r0-stale -G -q -d none 2>/dev/null
    else
        local answer
        answer=$(on "$1" cibadmin -Q --scope constraints 2>/dev/null) || return
        grep -A 9 'id="drbd-fence-by-handler' <<<"$answer" || echo none
    fi
}
marked() { [[ $(mark "$1") == *:0=* || $(mark "$1") == *drbd-fence-by-handler* ]]; }
unmarked() { [[ $(mark "$1") == none ]]; }
# As NODE sees it, OTHER is off.
off() { [[ $(on "$1" crm_mon -1 2>/dev/null) == *"OFFLINE: [ $2 ]"* ]]; }

# Of three nodes the Primary's is cut off from the two others. It has no quorum, and stops; who is in the
# majority takes over, but not before the cut one is off: the power switch is silent until it has stopped.
minority() {
    local node left before begun stopped pause
    until_true 60 served || fail "minority: nobody has the address"
    node=$(primary)
    left=$(other "$node")
    before=$(committed)
    until_true 30 commits_after $((before + 3)) || fail "minority: the client writes nothing"
    kill "$(cat "$lab/power.pid")"
    begun=$(date +%s.%N)
    cable "$node" down 0
    until_true 90 rests "$node" || fail "minority: $node goes on without a quorum"
    stopped=$(awk -v a="$begun" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
    first_process "$node" >/dev/null || fail "minority: $node is off already"
    rests "$left" || fail "minority: $left was promoted, and nobody knows whether $node is off"
    power_switch
    # No action has failed that a cleanup would forget; this lets the cluster try again.
    on "$left" crm_resource --refresh >/dev/null 2>&1
    until_true 120 is_primary "$left" || fail "minority: $left does not take over"
    before=$(committed)
    until_true 60 commits_after $((before + 3)) || fail "minority: the client writes nothing any more"
    pause=$(pause_since "$begun")
    if first_process "$node" >/dev/null; then cable "$node" up 0; else start "$node"; fi
    until_true 120 member "$left" || fail "minority: $node does not come back in sync"
    row minority "$node" "$left" "$pause"
    echo "minority: $node had stopped after $stopped s"
}

# The third node is off, and then the two others are separated: nobody has a quorum, all is stopped, and
# nobody is fenced. When they see each other again it goes on.
no_quorum() {
    local node before begun stopped pause name i
    until_true 60 served || fail "no-quorum: nobody has the address"
    node=$(primary)
    power_off carol
    until_true 60 off "$node" carol || fail "no-quorum: carol is not fenced"
    before=$(committed)
    until_true 30 commits_after $((before + 3)) || fail "no-quorum: the client writes nothing with two of three"
    begun=$(date +%s.%N)
    cable "$node" down 0
    until_true 90 rests "$node" || fail "no-quorum: $node goes on without a quorum"
    stopped=$(awk -v a="$begun" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
    # The cluster would have promoted somebody within 3 s.
    for ((i = 0; i < 50; i++)); do
        for name in "${nodes[@]}"; do
            first_process "$name" >/dev/null || fail "no-quorum: $name was fenced by nobody's majority"
            rests "$name" || fail "no-quorum: $name was promoted without a quorum"
        done
        sleep 0.1
    done
    cable "$node" up 0
    until_true 120 served || fail "no-quorum: nobody is promoted when the nodes see each other again"
    before=$(committed)
    until_true 60 commits_after $((before + 3)) || fail "no-quorum: the client writes nothing any more"
    pause=$(pause_since "$begun")
    for name in "${members[@]}"; do
        first_process "$name" >/dev/null || start "$name"
    done
    until_true 120 member "$node" || fail "no-quorum: not all come back"
    row no-quorum "$node" "$(primary)" "$pause"
    echo "no-quorum: $node had stopped after $stopped s"
}
# It serves nothing: no address, and no Primary.
rests() {
    [[ $(on "$1" ip -o addr show eth0) != *" $address/"* && $(on "$1" drbdadm role r0 2>/dev/null) != Primary* ]]
}

published() {
    [[ $(on "$1" crm_mon -1 -A | grep -c 'drbd-promotion-score-r0[[:space:]]*: 10102') -eq 2 ]]
}
alone() { [[ $(on "$1" drbdadm cstate r0) != Connected ]]; }

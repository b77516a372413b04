# shellcheck shell=bash disable=SC2154,SC2016
# Sourced by tools/cluster: what stands on the volume, and its client. Each service has
#
#   NAME_needs       installs what it takes
#   NAME_fill        runs in alice while $device is there: what the service finds on it
#   NAME_on_boot     NODE: what runs there beside the cluster
#   NAME_resources   its primitives and the group db, for crm
#   NAME_commit      the script with which the client commits number $1 at the address $2: it ends with 0 only
#                    when that was acknowledged as durable
#   NAME_serving     it answers
#   NAME_kept        the numbers that are there
#   NAME_look        what a person types on the client's host

address=${address:?} mounted=${mounted:?} device=${device:?}
iqn=iqn.2024-01.org.example:r0

# The group's head: the device.
volume_resource() {
    echo "primitive volume ocf:tandem:attach params volume=r0 fuse=true config=/etc/drbd.conf" \
        "op start timeout=30s interval=0 op stop timeout=30s interval=0 op monitor interval=5s timeout=20s"
}
file_system() {
    echo "primitive fs ocf:heartbeat:Filesystem params device=$device directory=$mounted fstype=ext4" \
        "op start timeout=40s interval=0 op stop timeout=40s interval=0 op monitor interval=10s timeout=20s"
}
floating_address() {
    echo "primitive vip ocf:heartbeat:IPaddr2 params ip=$address cidr_netmask=24 nic=eth0 op monitor interval=5s"
}

# --- PostgreSQL --------------------------------------------------------------------------------------

postgres_needs() { need psql:postgresql-client && need_no_service haproxy:haproxy && need_postgres; }
postgres_fill() {
    # The database is made as it is used later, by a script in the machine.
    on alice bash -euc "
        mke2fs -q -t ext4 -F $device
        mkdir -p $mounted && mount $device $mounted
        mkdir $mounted/data && chown postgres: $mounted/data
        cd / && runuser -u postgres -- $postgres/initdb -D $mounted/data -A trust >/dev/null
        printf '%s\n' \"listen_addresses='*'\" shared_buffers=16MB >>$mounted/data/postgresql.conf
        echo 'host all all 10.77.0.0/24 trust' >>$mounted/data/pg_hba.conf
        umount $mounted"
}
postgres_on_boot() { :; }
postgres_resources() {
    volume_resource
    file_system
    echo "primitive pg ocf:heartbeat:pgsql params pgctl=$postgres/pg_ctl psql=/usr/bin/psql pgdata=$mounted/data" \
        "pgdba=postgres op start timeout=60s interval=0 op stop timeout=40s interval=0 op monitor interval=10s timeout=20s"
    floating_address
    echo "group db volume fs pg vip"
}
sql() { on client timeout 10 psql -qAth "$address" -U postgres -c "$1"; }
postgres_serving() { sql 'select 1' >/dev/null 2>&1; }
postgres_begin() {
    sql 'create table commits(n int primary key)' >/dev/null
    front
}
# Each commit is one connection, as of a client that finds its way anew.
postgres_commit() {
    echo 'PGCONNECT_TIMEOUT=1 timeout 3 psql -qh "$2" -U postgres -c "insert into commits values($1)"'
}
postgres_look() { echo "psql -h $address -U postgres, or through HAProxy psql -h 127.0.0.1 -U postgres"; }
postgres_kept() { sql 'select n from commits'; }

# HAProxy on the client's host: whoever is Primary has the database.
front() {
    local name
    cat >"$lab/haproxy.cfg" <<'CONFIG'
global
    maxconn 200
    pidfile /run/haproxy.pid
defaults
    mode tcp
    timeout connect 1s
    timeout client 1h
    timeout server 1h
    option redispatch
    retries 3
listen postgresql
    bind 127.0.0.1:5432
    option httpchk GET /primary/r0
    http-check expect status 200
    default-server check port 9942 inter 500ms fastinter 200ms fall 2 rise 1 on-marked-down shutdown-sessions
CONFIG
    for name in "${nodes[@]}"; do
        echo "    server $name 10.77.0.${number[$name]}:5432" >>"$lab/haproxy.cfg"
    done
    on client haproxy -D -f "$lab/haproxy.cfg" >"$lab/client/log/haproxy" 2>&1 || fail "HAProxy: $lab/client/log/haproxy"
    until_true 20 fronts || fail "HAProxy leads nowhere: $lab/client/log/haproxy"
}
fronts() { on client timeout 3 psql -qAth 127.0.0.1 -U postgres -c 'select 1' >/dev/null 2>&1; }

# --- an iSCSI target -----------------------------------------------------------------------------------

iscsi_needs() { need_no_service tgtd:tgt && need iscsi-ls:libiscsi-bin qemu-io:qemu-utils && need_module qemu-block-extra; }
# The package has no program that could be asked for.
need_module() { compgen -G "/usr/lib/*/qemu/block-iscsi.so" >/dev/null || need "block-iscsi.so:$1"; }
iscsi_fill() { on alice dd if=/dev/zero of="$device" bs=1M count=4 oflag=direct status=none; }
iscsi_on_boot() {
    on "$1" bash -c 'mkdir -p /run/tgtd && setsid tgtd -f </dev/null >>/var/log/tgtd 2>&1 &'
}
iscsi_resources() {
    volume_resource
    echo "primitive target ocf:heartbeat:iSCSITarget params implementation=tgt iqn=$iqn tid=1 allowed_initiators=ALL" \
        "op start timeout=20s interval=0 op stop timeout=30s interval=0 op monitor interval=10s timeout=20s"
    echo "primitive lun ocf:heartbeat:iSCSILogicalUnit params implementation=tgt target_iqn=$iqn lun=1 path=$device" \
        "op start timeout=20s interval=0 op stop timeout=30s interval=0 op monitor interval=10s timeout=20s"
    floating_address
    echo "group db volume target lun vip"
}
iscsi_serving() { on client timeout 5 iscsi-readcapacity16 "iscsi://$address/$iqn/1" >/dev/null 2>&1; }
iscsi_begin() { :; }
# A block of its own for each number, flushed.
iscsi_commit() {
    echo 'said=$(timeout 3 qemu-io -f raw -c "write -P $(($1 % 250 + 1)) $(($1 * 4096)) 4096" -c flush' \
        "\"iscsi://\$2/$iqn/1\" 2>&1) && [[ \$said == *'wrote 4096/4096'* && \$said != *ailed* ]]"
}
iscsi_look() { echo "iscsi-ls -s iscsi://$address"; }
iscsi_kept() {
    local last
    last=$(tail -1 "$lab/acknowledged" | cut -d' ' -f1)
    on client timeout 60 qemu-img dd -f raw -O raw bs=4096 "count=$((${last:-0} + 1))" \
        "if=iscsi://$address/$iqn/1" "of=$lab/blocks" >/dev/null 2>&1 || return
    od -An -v -tu1 -w4096 "$lab/blocks" | awk '{ n = NR - 1; whole = 1
        for (i = 1; i <= 4096; i++) if ($i != n % 250 + 1) { whole = 0; break }
        if (whole) print n }'
}

# --- NFS -------------------------------------------------------------------------------------------------

nfs_needs() {
    need_no_service ganesha.nfsd:nfs-ganesha
    compgen -G "/usr/lib/*/ganesha/libfsalvfs.so" >/dev/null || need libfsalvfs.so:nfs-ganesha-vfs
    need nfs-ls:libnfs-utils
}
nfs_fill() {
    on alice bash -euc "
        mke2fs -q -t ext4 -F $device
        mkdir -p $mounted && mount $device $mounted
        mkdir $mounted/export $mounted/recovery && chmod 1777 $mounted/export
        umount $mounted"
}
# Its state of locks and clients moves with the volume.
nfs_on_boot() {
    cat >"$lab/ganesha.conf" <<CONFIG
NFS_CORE_PARAM { Protocols = 4; NFS_Port = 2049; Enable_NLM = false; Enable_RQUOTA = false; }
NFSv4 { RecoveryBackend = fs; RecoveryRoot = $mounted/recovery; Grace_Period = 5; Lease_Lifetime = 4; Only_Numeric_Owners = true; }
EXPORT { Export_Id = 1; Path = $mounted/export; Pseudo = /r0; Access_Type = RW; Squash = none; SecType = sys; FSAL { Name = VFS; } }
LOG { Default_Log_Level = EVENT; }
CONFIG
    on "$1" mkdir -p /run/ganesha /run/dbus /run/rpcbind
}
nfs_resources() {
    volume_resource
    file_system
    echo "primitive nfs ocf:heartbeat:anything params binfile=$(command -v ganesha.nfsd) pidfile=/run/ganesha/anything.pid" \
        "cmdline_options=\"-F -f $lab/ganesha.conf -L /var/log/ganesha -p /run/ganesha/pid\" stop_timeout=10" \
        "op start timeout=30s interval=0 op stop timeout=30s interval=0 op monitor interval=5s timeout=20s"
    floating_address
    echo "group db volume fs nfs vip"
}
nfs_serving() { on client timeout 5 nfs-ls "nfs://$address/r0?version=4" >/dev/null 2>&1; }
nfs_begin() { :; }
# A file for each number; closing it commits it on the server.
nfs_commit() {
    echo 'timeout 8 nfs-cp /etc/hosts "nfs://$2/r0/$1?version=4"'
}
nfs_look() { echo "nfs-ls 'nfs://$address/r0?version=4'"; }
nfs_kept() {
    local size
    size=$(on client stat -c %s /etc/hosts)
    on client timeout 30 nfs-ls "nfs://$address/r0?version=4" | awk -v size="$size" '$5 == size { print $NF }'
}

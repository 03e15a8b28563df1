#!/usr/bin/env bash
# One-node Slurm with accounting on this machine, for the tests of the submitit launcher. Root only.
#   tests/servers/slurm.sh start   prints the line that sets SLURM_CONF; may be given again
#   tests/servers/slurm.sh stop    ends what `start` started, by its process ids
# Accounting (slurmdbd over MariaDB) is not decoration: without it a job that was killed is never reported, and submitit
# waits for ever.
#   apt-get install --no-install-recommends slurm-wlm slurmctld slurmd slurm-client slurmdbd mariadb-server munge
set -euo pipefail

home=${XVOL_SLURM_DIR:-/var/tmp/xvol-slurm}
database_port=3399
export SLURM_CONF=$home/slurm.conf

alive() { [[ -s $1 ]] && kill -0 "$(cat "$1")" 2>/dev/null; }

await() { # seconds, command...
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { echo "slurm.sh: no success in time: $*; logs are in $home/log" >&2; exit 1; }
        sleep 0.3
    done
}

sql() { mariadb --no-defaults --socket="$home/db/db.sock" "$@"; }

write_configuration() {
    cat >"$home/slurm.conf" <<CONF
ClusterName=xvol
SlurmctldHost=localhost
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=10
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd.pid
SlurmctldLogFile=$home/log/slurmctld.log
SlurmdLogFile=$home/log/slurmd.log
NodeName=localhost CPUs=$(getconf _NPROCESSORS_ONLN) RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PreemptMode=REQUEUE
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=16819
JobAcctGatherType=jobacct_gather/none
CONF
    cat >"$home/slurmdbd.conf" <<CONF
AuthType=auth/munge
DbdHost=localhost
DbdPort=16819
SlurmUser=root
PidFile=$home/slurmdbd.pid
LogFile=$home/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$database_port
StorageUser=slurm
StoragePass=$(cat "$home/secret")
StorageLoc=slurm_acct_db
CONF
    chmod 600 "$home/slurmdbd.conf"
}

start_database() {
    if ! alive "$home/db/db.pid"; then
        if [[ ! -d $home/db/mysql ]]; then
            install -d -o mysql "$home/db"
            mariadb-install-db --no-defaults --user=mysql --datadir="$home/db" --skip-test-db >"$home/log/db-install.log"
        fi
        setsid mariadbd --no-defaults --user=mysql --datadir="$home/db" --socket="$home/db/db.sock" --pid-file="$home/db/db.pid" \
            --port=$database_port --bind-address=127.0.0.1 --innodb-buffer-pool-size=64M >"$home/log/db.log" 2>&1 </dev/null &
    fi
    await 60 sql -e 'select 1'
    sql -e "create database if not exists slurm_acct_db; create user if not exists slurm@'%';
            alter user slurm@'%' identified by '$(cat "$home/secret")'; grant all on slurm_acct_db.* to slurm@'%'"
}

start() {
    for tool in munged mariadbd slurmdbd slurmctld slurmd; do
        command -v $tool >/dev/null || PATH=$PATH:/usr/sbin command -v $tool >/dev/null || {
            echo "slurm.sh: $tool is not installed" >&2; exit 3; }
    done
    mkdir -p "$home"/{state,spool,log} /run/munge
    chmod 755 "$home"
    chown munge:munge /run/munge
    [[ -s $home/secret ]] || (umask 077; head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$home/secret")
    munge -n >/dev/null 2>&1 || runuser -u munge -- munged
    write_configuration
    start_database
    # slurmdbd reads /etc/slurm/slurmdbd.conf, or the file beside SLURM_CONF
    alive "$home/slurmdbd.pid" || slurmdbd
    await 30 sacctmgr -n show cluster
    sacctmgr -i add cluster xvol >/dev/null 2>&1 || true
    alive "$home/slurmctld.pid" || slurmctld
    alive "$home/slurmd.pid" || slurmd -N localhost
    await 30 sh -c 'sinfo -h -o %T | grep -qE "idle|mixed|allocated"' || true
    echo "export SLURM_CONF=$SLURM_CONF"
}

stop() {
    for name in slurmd slurmctld slurmdbd db/db; do
        if alive "$home/$name.pid"; then
            pid=$(cat "$home/$name.pid")
            kill "$pid"
            for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        fi
    done
}

case ${1:-} in
start) start ;;
stop) stop ;;
*) echo "usage: $0 start|stop" >&2; exit 2 ;;
esac

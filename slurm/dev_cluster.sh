#!/usr/bin/env bash
# A real SLURM cluster on one Debian or Ubuntu machine, for tests and trials: munged, MariaDB, slurmdbd,
# slurmctld and N slurmd.
#
#   slurm/dev_cluster.sh up [N]     start N nodes (default 4) in under a minute; nothing if N are up
#   slurm/dev_cluster.sh down       stop everything and remove its files from /etc/slurm
#   slurm/dev_cluster.sh possible   exit with 0 if `up` can work, else with 1 and the reason
#
# Environment: VLPEFT_CLUSTER (state and logs, default /var/tmp/vlpeft-cluster) and
# VLPEFT_CLUSTER_CPUS (CPUs of each node, default 4).
# Everything listens on loopback only. It works in a container, because it needs neither systemd nor cgroups.
set -euo pipefail

ACTION=${1:-help}
NODES=${2:-4}
D=${VLPEFT_CLUSTER:-/var/tmp/vlpeft-cluster}
CPUS=${VLPEFT_CLUSTER_CPUS:-4}
GPUS=2 # fake GPUs of each node: requests for them are scheduled, but they cannot compute
MUNGE=/run/munge/munge.socket.2
DATABASE=$D/run/mysqld.sock

say() { echo "dev_cluster: $*"; }
die() { echo "dev_cluster: error: $*" >&2; exit 1; }
cannot() { echo "dev_cluster: error: $*" >&2; exit 3; } # not an error of the cluster: this machine cannot have one

why_not() {
  [ "$(id -u)" = 0 ] || { echo "it needs root, and this is $(id -un)"; return; }
  for conf in slurm gres slurmdbd; do
    [ ! -e "/etc/slurm/$conf.conf" ] || ours "$conf" || { echo "/etc/slurm/$conf.conf belongs to another cluster"; return; }
  done
  installed || command -v apt-get >/dev/null || echo "SLURM is not installed, and without apt-get (Debian, Ubuntu) it cannot be installed here"
}

ours() { [ "$(readlink "/etc/slurm/$1.conf")" = "$D/$1.conf" ]; }
installed() { for each in slurmctld slurmd slurmdbd munged mariadbd; do command -v $each >/dev/null || return 1; done; }
alive() { [ -s "$1" ] && grep -qs "^$2" "/proc/$(cat "$1")/comm"; } # PIDFILE NAME: an old id may belong to another process
# Every process of the cluster, even without its pid file. SLURM's daemons are ours if the configuration
# is; the command lines of the others name our folder.
processes() {
  local name
  if ours slurm; then for name in slurmctld slurmdbd slurmd slurmstepd slurmscriptd; do pgrep -x $name || true; done; fi
  pgrep -f "^(munged|mariadbd) .*$D/" || true
}

wait_for() { # WHAT COMMAND...: at most 20 s
  local what=$1 end=$((SECONDS + 20)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || die "$what did not come up; see $D/log"
    sleep 0.1
  done
}

install_packages() {
  say "installing SLURM, munge and MariaDB"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get -o Acquire::http::Timeout=30 update -qq && apt-get -o Acquire::http::Timeout=30 install -y -qq --no-install-recommends slurm-wlm slurmdbd munge mariadb-server; } >"$D/log/apt.log" 2>&1 ||
    cannot "the packages cannot be installed: $(tail -n 1 "$D/log/apt.log")"
}

configure() {
  local host; host=$(hostname -s)
  # cred_expire: how long a requeued job waits before it starts again (default 120 s).
  # linuxproc, task/none: no cgroups. OverMemoryKill replaces the out-of-memory killer of the kernel.
  # FirstJobId: a new cluster would start at 1 again, and old results use those ids.
  # config_overrides: use the CPUs and memory below even if the machine has less.
  cat >"$D/slurm.conf" <<CONF
ClusterName=vlpeft
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort=26817
SlurmctldPidFile=$D/run/slurmctld.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdPidFile=$D/run/slurmd.%n.pid
SlurmdLogFile=$D/log/slurmd.%n.log
SlurmdSpoolDir=$D/spool.%n
StateSaveLocation=$D/ctld
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=10000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=26819
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=5
WaitTime=0
MinJobAge=300
MaxJobCount=50000
FirstJobId=$(($(date +%s) % 60000000 + 1000))
JobRequeue=1
DefMemPerCPU=1000
GresTypes=gpu
NodeName=n[1-$NODES] NodeHostname=$host NodeAddr=127.0.0.1 Port=[27001-$((27000 + NODES))] CPUs=$CPUS RealMemory=16000 Gres=gpu:$GPUS State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=UNLIMITED PriorityTier=2 PreemptMode=OFF
PartitionName=preemptible Nodes=ALL MaxTime=UNLIMITED PriorityTier=1 PreemptMode=REQUEUE
PartitionName=cancelling Nodes=ALL MaxTime=UNLIMITED PriorityTier=1 PreemptMode=CANCEL
PartitionName=urgent Nodes=ALL MaxTime=UNLIMITED PriorityTier=9 PreemptMode=OFF
CONF
  for gpu in $(seq 0 $((GPUS - 1))); do [ -e "$D/gpu$gpu" ] || mknod "$D/gpu$gpu" c 1 3; done # a copy of /dev/null
  echo "Name=gpu File=$D/gpu[0-$((GPUS - 1))]" >"$D/gres.conf"
  cat >"$D/slurmdbd.conf" <<CONF
AuthType=auth/munge
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=26819
CommunicationParameters=NoInAddrAny
SlurmUser=root
PidFile=$D/run/slurmdbd.pid
LogFile=$D/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
CONF
  chmod 600 "$D/slurmdbd.conf"
  mkdir -p /etc/slurm
  for conf in slurm gres slurmdbd; do ln -sfn "$D/$conf.conf" "/etc/slurm/$conf.conf"; done
}

start_munge() {
  munge -n 2>/dev/null | unmunge >/dev/null 2>&1 && return # the munged of the machine, which its package started
  dd if=/dev/urandom of="$D/munge/munge.key" bs=128 count=1 status=none
  chmod 700 "$D/munge"
  chmod 400 "$D/munge/munge.key"
  mkdir -p /run/munge
  chmod 755 /run/munge
  munged --force --key-file="$D/munge/munge.key" --socket=$MUNGE --pid-file="$D/run/munged.pid" --log-file="$D/log/munged.log" --seed-file="$D/munge/seed"
}

start_database() { # on its own socket, without the network
  mariadb-install-db --user=root --datadir="$D/db" --auth-root-authentication-method=normal --skip-test-db >"$D/log/mariadb-install.log" 2>&1
  setsid mariadbd --no-defaults --user=root --datadir="$D/db" --socket="$DATABASE" --skip-networking --pid-file="$D/run/mariadbd.pid" \
    --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 >"$D/log/mariadbd.log" 2>&1 </dev/null &
  wait_for MariaDB mariadb-admin --no-defaults -S "$DATABASE" ping
  mariadb --no-defaults -S "$DATABASE" -e 'create database if not exists slurm_acct_db'
}

start_slurm() {
  MYSQL_UNIX_PORT=$DATABASE slurmdbd
  wait_for slurmdbd sacctmgr -in show cluster
  sacctmgr -iQ add cluster vlpeft >/dev/null 2>&1 || true # it exists if slurmctld was faster
  slurmctld -c
  wait_for slurmctld bash -c 'scontrol ping | grep -q UP'
  for node in $(seq "$NODES"); do slurmd -N "n$node" -c; done
  wait_for "slurmd of $NODES nodes" all_idle
}

all_idle() { [ "$(sinfo -hN -p main -t idle -o %N 2>/dev/null | sort -u | wc -l)" = "$NODES" ]; }
is_up() { alive "$D/run/slurmctld.pid" slurmctld && alive "$D/run/slurmdbd.pid" slurmdbd && [ "$(timeout 5 sinfo -hN -p main -t idle,mixed,allocated -o %N 2>/dev/null | sort -u | wc -l)" = "$NODES" ]; }

up() {
  local reason; reason=$(why_not)
  [ -z "$reason" ] || die "cannot bring up a cluster here: $reason"
  [[ $NODES =~ ^[1-9][0-9]*$ ]] || die "'$NODES' is not a number of nodes"
  if installed && is_up; then say "already up with $NODES nodes"; return; fi
  down quietly
  rm -rf "$D"
  mkdir -p "$D"/{ctld,log,run,db,munge}
  installed || install_packages
  configure
  start_munge
  start_database
  start_slurm
  [ "$(srun -N "$NODES" --ntasks-per-node=1 printenv SLURMD_NODENAME | sort -u | wc -l)" = "$NODES" ] || die "srun on $NODES nodes failed; see $D/log"
  say "up with $NODES nodes in $SECONDS s; state and logs in $D"
}

down() {
  local file end=$((SECONDS + 10))
  if alive "$D/run/slurmctld.pid" slurmctld; then timeout 10 scancel -u root 2>/dev/null || true; fi
  processes | xargs -r kill 2>/dev/null || true
  while [ -n "$(processes)" ] && [ $SECONDS -lt $end ]; do sleep 0.1; done
  processes | xargs -r kill -9 2>/dev/null || true
  rm -f "$D"/run/*.pid
  for file in slurm gres slurmdbd; do if ours "$file"; then rm -f "/etc/slurm/$file.conf"; fi; done
  [ "${1:-}" = quietly ] || say "down; logs stay in $D/log"
}

close_others() { # descriptors of the caller above 2, such as a `flock` lock, which the daemons would keep open
  local each
  for each in /proc/"$BASHPID"/fd/*; do
    each=${each##*/}
    [ "$each" -le 2 ] || [ "$each" = 255 ] || eval "exec $each>&-" # 255 belongs to bash, which closes it
  done
}

if [ "$ACTION" = up ] || [ "$ACTION" = down ]; then # one process at a time on a machine
  [ "$(id -u)" = 0 ] || die "it needs root, and this is $(id -un)"
  exec 9>/var/tmp/vlpeft-cluster.lock
  flock -w 300 9 || die "another $0 has been at work for five minutes"
fi
case $ACTION in
up) (close_others; up) ;; # the daemons must not hold our lock; this shell does
down) down ;;
possible)
  REASON=$(why_not)
  [ -z "$REASON" ] || { echo "$REASON"; exit 1; }
  ;;
*) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac

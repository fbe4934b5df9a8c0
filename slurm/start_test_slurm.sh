#!/usr/bin/env bash
# Starts a real SLURM on this machine, for tests and for trying the templates beside this file: one node, and a second one
# with its own network and host name where the kernel has network namespaces (partition `pair` has both).
#
#   slurm/start_test_slurm.sh            install what is missing (root, Debian or Ubuntu), start, wait until it is idle
#   slurm/start_test_slurm.sh --empty    cancel all jobs and wait until they have ended
#   slurm/start_test_slurm.sh --stop     the same, then stop it; its logs stay
#
# A start begins with an empty queue too: jobs that were running when the machine or the daemons went are cancelled, because SLURM
# would run them again, and one forgotten job keeps all others that ask for whole nodes waiting.
# It never touches a cluster: where /etc/slurm/slurm.conf was not written by this script it stops with a sentence.
# ASTRO_TRAIN_SLURM_DIR (default /var/tmp/astro-train-slurm) holds logs and state. SLURM believes in ASTRO_TRAIN_SLURM_CPUS
# (default at least 8) cores, 8 GPUs and 512 GB, so that the templates can be submitted as they are; it enforces none.
set -euo pipefail

dir=${ASTRO_TRAIN_SLURM_DIR:-/var/tmp/astro-train-slurm}
conf=/etc/slurm/slurm.conf
mark="# written by astro-train's slurm/start_test_slurm.sh"
cores=$(nproc)
cpus=${ASTRO_TRAIN_SLURM_CPUS:-$((cores > 8 ? cores : 8))}
node=$(hostname -s)
second=$node-2
nodes=$node
address=127.0.0.1

fail() {
  echo "start_test_slurm.sh: $*" >&2
  exit 1
}

check() {
  if [ -e "$conf" ] && ! grep -qF "$mark" "$conf"; then
    fail "$conf belongs to another SLURM: this script is for machines that have none."
  fi
}

check_root() {
  [ "$(id -u)" = 0 ] || fail "the daemons of SLURM need root: run it as root in a container or a virtual machine."
}

install_slurm() {
  command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && return
  command -v apt-get >/dev/null || fail "slurmctld, slurmd or munged is missing: install SLURM and munge first."
  export DEBIAN_FRONTEND=noninteractive
  { timeout 120 apt-get update -qq && timeout 400 apt-get install -y -qq --no-install-recommends slurm-wlm munge iproute2; } \
    >"$dir/apt.log" 2>&1 || fail "apt-get could not install slurm-wlm and munge, see $dir/apt.log."
}

# The second node is a network namespace: packets between the two cross a virtual cable, and each has its own loopback.
# Both call their end of it astro0, which gloo is told by GLOO_SOCKET_IFNAME.
make_second() {
  { command -v ip && command -v nsenter; } >/dev/null || return 1
  if ! ip netns list 2>/dev/null | grep -qw -- "$second"; then
    ip netns add "$second" 2>/dev/null || return 1
  fi
  cable 2>"$dir/second.log" || { remove_second && return 1; }
  printf '127.0.0.1 localhost\n10.213.7.1 %s\n10.213.7.2 %s\n' "$node" "$second" >"$dir/hosts-$second"
  getent hosts "$second" >/dev/null || echo "10.213.7.2 $second" >>/etc/hosts
  address=10.213.7.1
  nodes=$node,$second
}

cable() { # both ends, whatever an earlier start has left
  local there="nsenter --net=/run/netns/$second"
  if ! ip link show astro0 >/dev/null 2>&1; then
    ip link add astro0 type veth peer name astro0 netns "$second" || return 1
  fi
  ip addr replace 10.213.7.1/24 dev astro0 && ip link set astro0 up && $there ip link set lo up &&
    $there ip addr replace 10.213.7.2/24 dev astro0 && $there ip link set astro0 up &&
    $there unshare --uts --mount true
}

remove_second() {
  command -v ip >/dev/null || return 0
  ip link del astro0 2>/dev/null || true
  ip netns del "$second" 2>/dev/null || true
}

# NodeName's numbers, which config_overrides makes SLURM believe.
size() { echo "CPUs=$cpus RealMemory=512000 Gres=gpu:8 State=UNKNOWN"; }

write_conf() {
  mkdir -p "$(dirname "$conf")"
  # AuthInfo=cred_expire is also how long a requeued job waits before it starts again (120 s on most clusters).
  touch "$dir"/gpu{0..7} # a GPU is a file that exists
  printf '%s\nName=gpu File=%s/gpu[0-7]\n' "$mark" "$dir" >/etc/slurm/gres.conf
  cat >"$conf.new" <<CONF
$mark
ClusterName=astro-train-test
SlurmctldHost=$node($address)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=10
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=1
SlurmdParameters=config_overrides
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=20
MessageTimeout=60
MinJobAge=3600
SlurmctldTimeout=300
SlurmdTimeout=300
InactiveLimit=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MailProg=/bin/true
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
NodeName=$node NodeAddr=$address $(size)
PartitionName=main Nodes=$node Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=$node MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
  if [ "$nodes" != "$node" ]; then
    cat >>"$conf.new" <<CONF
NodeName=$second NodeAddr=10.213.7.2 $(size)
PartitionName=pair Nodes=$nodes MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
CONF
  fi
  if [ -e "$conf" ] && cmp -s "$conf" "$conf.new"; then
    rm "$conf.new"
    return 1 # nothing new
  fi
  mv "$conf.new" "$conf"
}

start_munge() {
  munge -n </dev/null >/dev/null 2>&1 && return
  [ -s /etc/munge/munge.key ] || mungekey --create --force
  mkdir -p /run/munge /var/log/munge /var/lib/munge
  chown munge: /run/munge /var/log/munge /var/lib/munge /etc/munge /etc/munge/munge.key
  chmod 755 /run/munge
  runuser -u munge -- munged
  wait_for "munged" 20 munge -n
}

wait_for() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  until timeout 10 "$@" </dev/null >/dev/null 2>&1; do
    [ $((SECONDS - start)) -lt "$limit" ] || fail "$name did not answer within $limit s, see $dir/*.log."
    sleep 0.5
  done
}

idle() { # NODE
  case $(sinfo -h -n "$1" -o %T 2>/dev/null | head -n 1) in
  idle | mixed | allocated) return 0 ;;
  down* | drain* | unknown*) scontrol update "NodeName=$1" State=RESUME 2>/dev/null || true ;;
  esac
  return 1
}

running() { # DAEMON or DAEMON-NODE: whether the process of its pid file lives, and is no other that got its number
  local pid
  pid=$(cat "$dir/$1.pid" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "${1%%-*}" ]
}

empty() { # root's of all users, anybody else's own; KillWait is 20 s
  local jobs start=$SECONDS mine=--me
  [ "$(id -u)" != 0 ] || mine=
  while jobs=$(timeout 20 squeue $mine -h -o %A | sort -u) && [ -n "$jobs" ]; do
    # shellcheck disable=SC2086 # a word per job
    timeout 20 scancel --quiet $jobs 2>/dev/null || true
    [ $((SECONDS - start)) -lt 90 ] || fail "jobs" $jobs "did not end within 90 s of scancel, see $dir/*.log."
    sleep 0.5
  done
}

stop() {
  local daemon
  for daemon in slurmd "slurmd-$second" "slurmd-$node" slurmctld; do # the first: of an older version of this script
    if running "$daemon"; then
      kill "$(cat "$dir/$daemon.pid")"
      for _ in $(seq 60); do running "$daemon" && sleep 0.5 || break; done
    fi
  done
}

export -f idle
check
mkdir -p "$dir/state"
if [ "${1:-}" = --empty ]; then
  running slurmctld && empty
  exit 0
fi
check_root
if [ "${1:-}" = --stop ]; then
  running slurmctld && (empty) || true # the daemons are stopped whatever becomes of the jobs
  stop
  remove_second
  exit 0
fi
install_slurm
getent hosts "$node" >/dev/null || echo "127.0.0.1 $node" >>/etc/hosts # srun must find the node by its name
make_second || echo "no second node: this kernel gives no network namespaces, or there is no ip (iproute2)"
write_conf && stop # daemons of an older configuration
start_munge
fresh=$(running slurmctld || echo yes)
[ -z "$fresh" ] || slurmctld
wait_for slurmctld 60 scontrol ping
running "slurmd-$node" || slurmd -N "$node"
if [ "$nodes" != "$node" ] && ! running "slurmd-$second"; then
  # not `ip netns exec`, which hides the control groups that slurmd wants
  nsenter "--net=/run/netns/$second" unshare --uts --mount bash -c \
    "hostname $second && mount --bind '$dir/hosts-$second' /etc/hosts && exec slurmd -N $second" || fail "the second node did not start, see $dir/slurmd-$second.log."
fi
[ -z "$fresh" ] || empty
for n in ${nodes//,/ }; do wait_for "the node $n" 60 bash -c "idle $n"; done
echo "SLURM $(sinfo --version | cut -d' ' -f2) is ready: nodes $nodes, $cpus CPUs each, logs in $dir"
sinfo -h -o "partition %P on %N"

# Keeps one embedded cluster: claims its address block, holds the namespaces that
# all its processes live in, and when PID 1 of those ends, for whatever reason,
# removes what outlives a namespace. Run by the harness (`bash -c`); standard
# input is that of `pause hold`. It starts no component.
#
# arguments: STATE BIN NODE_SCRIPT LOCK
# prints:    key KEY INDEX, pid PID (of PID 1, in the caller's namespace), ready
set -u
state=$1 bin=$2 node_script=$3 lock=$4

exec 9>"$lock"
if ! flock -n 9; then
  echo "busy"
  exit 1
fi

# What an earlier cluster of this name left (its logs) goes; ours is the lock now.
clear_state() { find "$state" -mindepth 1 -maxdepth 1 ! -name logs -exec rm -rf --one-file-system {} +; }
clear_state
find "$state/logs" -mindepth 1 -maxdepth 1 ! -name keeper.log -exec rm -rf --one-file-system {} +
: >"$state/logs/keeper.log"
mkdir -p "$state"/{var-lib,logs/node,tmp/hostpath_pv}
chmod 1777 "$state/tmp"

# A number is claimed by a lock held until everything named by it is gone: the kernel removes the veth pair with the node's
# namespace, and who took the number at that moment would have its new pair deleted below. A pair without a lock is left by
# a keeper that was killed; its number is passed over.
mkdir -p /run/lock
key=
for index in {0..99}; do
  block=$((128 + index))
  exec 8>"/run/lock/coopery$index"
  flock -n 8 || continue
  [[ -z $(ip -4 route show root "10.$block.0.0/16") ]] || continue
  if ip link add "coopery$index" type veth peer name "coopery${index}p" 2>/dev/null; then
    key=coopery$index
    break
  fi
done
if [[ -z $key ]]; then
  echo "no address block from 10.128.0.0/16 to 10.227.0.0/16 is free, or no veth device can be made" >&2
  exit 1
fi

# Cgroup v1 has a directory in every hierarchy, v2 one directory.
make_cgroups() {
  local top
  if [[ -f /sys/fs/cgroup/cgroup.controllers ]]; then
    mkdir -p "/sys/fs/cgroup/$key"
    for top in $(</sys/fs/cgroup/cgroup.controllers); do
      echo "+$top" >/sys/fs/cgroup/cgroup.subtree_control
      echo "+$top" >"/sys/fs/cgroup/$key/cgroup.subtree_control"
    done 2>/dev/null
    return
  fi
  for top in /sys/fs/cgroup/*/; do
    top=${top%/}
    [[ -f $top/cgroup.procs && ! -L $top ]] || continue
    mkdir -p "$top/$key"
    [[ ! -f $top/cpuset.cpus ]] || {
      cat "$top/cpuset.cpus" >"$top/$key/cpuset.cpus"
      cat "$top/cpuset.mems" >"$top/$key/cpuset.mems"
    }
  done
}

remove_cgroups() {
  local top attempt
  for attempt in {1..100}; do
    for top in /sys/fs/cgroup /sys/fs/cgroup/*; do
      [[ ! -d $top/$key || -L $top ]] || find "$top/$key" -depth -type d -exec rmdir {} + 2>/dev/null
    done
    compgen -G "/sys/fs/cgroup/$key" >/dev/null || compgen -G "/sys/fs/cgroup/*/$key" >/dev/null || return 0
    sleep 0.05
  done
  echo "cgroup directories of $key could not be removed" >&2
}

echo "key $key $index"
make_cgroups
unshare --mount --propagation private --net --pid --fork --kill-child \
  bash -c "$node_script" node "$state" "$bin" "10.$((128 + index))" 8>&-
ip link delete "$key" 2>/dev/null
remove_cgroups
clear_state
exit 0

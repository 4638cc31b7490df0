# Furnishes the namespaces of an embedded cluster's node, as their PID 1, and
# becomes `pause hold`. Inside, the programs find the usual places: /var/lib,
# /var/log, /run and /tmp are the cluster's own; /run/coopery/state and
# /run/coopery/bin are its state and the programs.
#
# arguments: STATE BIN PREFIX (first two octets of the address block)
set -eu
state=$1 bin=$2 prefix=$3

# /proc is still the caller's: our own number there is the one it needs.
read -r pid _ </proc/self/stat
echo "pid $pid"

# STATE may lie below a place that is covered next, so it is bound first, on a
# tmpfs that becomes /run.
mount --no-mtab -t tmpfs -o mode=755 tmpfs /mnt
mkdir -p /mnt/coopery/state /mnt/coopery/bin /mnt/coopery/proc /mnt/coopery/tunable /mnt/lock
mount --no-mtab --bind "$state" /mnt/coopery/state
mount --no-mtab --bind "$bin" /mnt/coopery/bin
mount --no-mtab --move /mnt /run

# The second /proc stays bare: the kernel lets a user namespace mount /proc only
# where one is to be seen with nothing mounted over parts of it.
mount --no-mtab -t proc proc /run/coopery/proc
mount --no-mtab -t proc proc /proc
# kubelet wants these values, which are the whole machine's: it is shown them.
for setting in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file=/run/coopery/tunable/${setting##*/}
  echo "${setting#*=}" >"${file%=*}"
  mount --no-mtab --bind "${file%=*}" "/proc/sys/${setting%=*}"
done

mount --no-mtab --bind /run/coopery/state/var-lib /var/lib
mount --no-mtab --bind /run/coopery/state/logs/node /var/log
mount --no-mtab --bind /run/coopery/state/tmp /tmp
resolver=$(readlink -m /etc/resolv.conf)
printf 'nameserver %s.255.2\nsearch cluster.local\n' "$prefix" >/run/coopery/resolv.conf
if [[ ! -e $resolver ]]; then
  mkdir -p "${resolver%/*}"
  : >"$resolver"
fi
mount --no-mtab --bind /run/coopery/resolv.conf "$resolver"
mount --no-mtab --make-rshared /

ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
echo ready
exec /run/coopery/bin/pause hold

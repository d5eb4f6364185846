#!/run/busybox sh
# Process 1 of the machine, in its root: mounts what a system has, runs the command file of the run folder, leaves its
# exit status there, and ends the machine.

run=$1
b=/run/busybox

$b mkdir -p /dev/shm /dev/pts
$b mount -t tmpfs -o mode=1777 shm /dev/shm
$b mount -t devpts -o ptmxmode=666 devpts /dev/pts
$b mount -t cgroup2 cgroup /sys/fs/cgroup
$b ln -s /proc/self/fd /dev/fd
for link in 0:stdin 1:stdout 2:stderr; do
    $b ln -s "/proc/self/fd/${link%%:*}" "/dev/${link#*:}"
done
$b ip link set lo up

$b stty -F /dev/ttyS1 raw -echo
$b sh "$run/command" </dev/null >/dev/ttyS1 2>&1
echo $? >"$run/status"
$b stty -F /dev/ttyS1 >/dev/null # waits until the last byte is out
$b reboot -f

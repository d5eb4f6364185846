#!/busybox sh
# Process 1 of the machine: loads the modules, lays memory over the host's root, runs the command file of the folder
# that the kernel's command line names (run=), leaves its exit status there, and ends the machine.

/busybox mount -t proc proc /proc
/busybox mount -t devtmpfs dev /dev
/busybox mount -t sysfs sys /sys
while read -r module; do
    /busybox insmod "/modules/$module"
done </modules/order

run=$(/busybox sed -n 's/.*\brun=\([^ ]*\).*/\1/p' /proc/cmdline)
/busybox mount -t virtiofs host /host
/busybox mount -t tmpfs layer /layer
/busybox mkdir /layer/upper /layer/work
/busybox mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /root
for folder in proc dev sys; do
    /busybox mount --move "/$folder" "/root/$folder"
done
for folder in tmp run var/tmp; do # the layer has no O_TMPFILE yet and no RWF_APPEND
    /busybox mount -t tmpfs -o mode=1777 tmpfs "/root/$folder"
done
/busybox mkdir -p /root/dev/shm /root/dev/pts "/root$run"
/busybox mount -t tmpfs -o mode=1777 shm /root/dev/shm
/busybox mount -t devpts -o ptmxmode=666 devpts /root/dev/pts
/busybox ln -s /proc/self/fd /root/dev/fd
for number in 0:stdin 1:stdout 2:stderr; do
    /busybox ln -s "/proc/self/fd/${number%%:*}" "/root/dev/${number#*:}"
done
/busybox mount -t cgroup2 cgroup /root/sys/fs/cgroup
/busybox mount -o bind "/host$run" "/root$run"
/busybox ip link set lo up

/busybox stty -F /root/dev/ttyS1 raw -echo
/busybox chroot /root /bin/bash "$run/command" </root/dev/null >/root/dev/ttyS1 2>&1
echo $? >"/root$run/status"
/busybox stty -F /root/dev/ttyS1 >/root/dev/null # waits until the last byte is out
/busybox reboot -f

#!/busybox sh
# Process 1 of the machine, in the initramfs: loads the modules, lays memory over the host's root, and hands over to
# root.sh there. The kernel's command line names the run folder (run=) and this package's folder (package=).

/busybox mount -t proc proc /proc
/busybox mount -t devtmpfs dev /dev
/busybox mount -t sysfs sys /sys
while read -r module; do
    /busybox insmod "/modules/$module"
done </modules/order

run=$(/busybox sed -n 's/.*\brun=\([^ ]*\).*/\1/p' /proc/cmdline)
package=$(/busybox sed -n 's/.*\bpackage=\([^ ]*\).*/\1/p' /proc/cmdline)
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
/busybox mkdir -p "/root$run"
/busybox mount -o bind "/host$run" "/root$run"
/busybox cp /busybox /root/run/busybox

# Not a mere chroot, in which no user namespace could be made.
exec /busybox switch_root /root /run/busybox sh "$package/root.sh" "$run"

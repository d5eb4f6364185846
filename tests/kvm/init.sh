#!/busybox sh
# Process 1 of the machine, in the initramfs: loads the modules, lays memory over the host's root, and hands over to
# root.sh there. The kernel's command line names the run folder (run=), the checkout (checkout=) and this package's folder
# in it (package=).

/busybox mount -t proc proc /proc
/busybox mount -t devtmpfs dev /dev
/busybox mount -t sysfs sys /sys
while read -r module; do
    /busybox insmod "/modules/$module"
done </modules/order

run=$(/busybox sed -n 's/.*\brun=\([^ ]*\).*/\1/p' /proc/cmdline)
checkout=$(/busybox sed -n 's/.*\bcheckout=\([^ ]*\).*/\1/p' /proc/cmdline)
package=$(/busybox sed -n 's/.*\bpackage=\([^ ]*\).*/\1/p' /proc/cmdline)
/busybox mount -t virtiofs host /host
/busybox mount -t tmpfs layer /layer
/busybox mkdir /layer/upper /layer/work
/busybox mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work root /root
for folder in proc dev sys; do
    /busybox mount --move "/$folder" "/root/$folder"
done
/busybox mkdir /checkout
/busybox mount -o bind "/root$checkout" /checkout
for folder in tmp run var/tmp; do # the layer has no O_TMPFILE yet and no RWF_APPEND
    /busybox mount -t tmpfs -o mode=1777 tmpfs "/root/$folder"
done
if ! [ -e "/root$package" ]; then # it lies in one of these
    /busybox mkdir -p "/root$checkout"
    /busybox mount -o bind /checkout "/root$checkout"
fi
/busybox mkdir -p "/root$run"
/busybox mount -o bind "/host$run" "/root$run"
/busybox cp /busybox /root/run/busybox

# Not a mere chroot, in which no user namespace could be made.
exec /busybox switch_root /root /run/busybox sh "$package/root.sh" "$run"

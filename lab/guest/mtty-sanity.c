/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The lab's check of itself: can a device be made, opened in every way that this kernel knows,
 * asked about migration, and removed; and do files kept in one boot arrive in the next? Plain
 * system calls, none of the project's own code, so that a failure here is a failure of the lab.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <dirent.h>

/*
 * The kernel's interface, spelled out: the build machine's headers may be older than the kernel
 * under test.
 */
#define VFIO(n) _IO(';', 100 + (n))
#define GET_API_VERSION VFIO(0)
#define SET_IOMMU VFIO(2)
#define GROUP_GET_STATUS VFIO(3)
#define GROUP_SET_CONTAINER VFIO(4)
#define GROUP_GET_DEVICE_FD VFIO(6)
#define DEVICE_FEATURE VFIO(17)
#define DEVICE_BIND_IOMMUFD VFIO(18)
#define TYPE1V2_IOMMU 3
#define GROUP_VIABLE 1u

#define FEATURE_GET (1u << 16)
#define FEATURE_MIGRATION 1u
#define FEATURE_MIG_DEVICE_STATE 2u
#define STATE_RUNNING 2u
#define STOP_COPY_P2P_PRE_COPY 7u

#define UUID "6d747479-0000-4000-8000-00000000c0de"
#define MTTY "/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2/"
#define MDEV "/sys/bus/mdev/devices/" UUID "/"

struct feature {
	uint32_t argsz, flags;
	union {
		uint64_t flags64;
		struct { uint32_t state; int32_t fd; } mig;
	} u;
};

struct bind_iommufd {
	uint32_t argsz, flags;
	int32_t iommufd;
	uint32_t out_devid;
};

static int failed;

static int report(const char *name, const char *what)
{
	if (!what) {
		printf("ok %s\n", name);
		return 1;
	}
	printf("not ok %s: %s (errno: %s)\n", name, what, strerror(errno));
	failed = 1;
	return 0;
}

static const char *write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	ssize_t n;

	if (fd < 0)
		return path;
	n = write(fd, text, strlen(text));
	close(fd);
	return n == (ssize_t)strlen(text) ? NULL : path;
}

static const char *create(void)
{
	return write_file(MTTY "create", UUID);
}

static const char *destroy(void)
{
	return write_file(MDEV "remove", "1");
}

static const char *check_migration(int device)
{
	struct feature f = { .argsz = sizeof(f), .flags = FEATURE_GET | FEATURE_MIGRATION };

	if (ioctl(device, DEVICE_FEATURE, &f))
		return "GET MIGRATION";
	printf("migration flags %llu\n", (unsigned long long)f.u.flags64);
	errno = 0;
	if (f.u.flags64 != STOP_COPY_P2P_PRE_COPY)
		return "migration flags are not 7";

	memset(&f.u, 0, sizeof(f.u));
	f.flags = FEATURE_GET | FEATURE_MIG_DEVICE_STATE;
	if (ioctl(device, DEVICE_FEATURE, &f))
		return "GET MIG_DEVICE_STATE";
	errno = 0;
	return f.u.mig.state == STATE_RUNNING ? NULL : "state is not RUNNING";
}

static const char *by_group(void)
{
	char link[PATH_MAX], path[PATH_MAX + 16];
	struct { uint32_t argsz, flags; } status = { sizeof(status), 0 };
	const char *err;
	int container, group, device;
	ssize_t n;

	n = readlink(MDEV "iommu_group", link, sizeof(link) - 1);
	if (n < 0)
		return "iommu_group";
	link[n] = 0;
	snprintf(path, sizeof(path), "/dev/vfio/%s", strrchr(link, '/') + 1);
	container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	if (container < 0)
		return "/dev/vfio/vfio";
	if (ioctl(container, GET_API_VERSION) != 0)
		return "GET_API_VERSION";
	group = open(path, O_RDWR | O_CLOEXEC);
	if (group < 0)
		return "group";
	if (ioctl(group, GROUP_GET_STATUS, &status) || !(status.flags & GROUP_VIABLE))
		return "GET_STATUS";
	if (ioctl(group, GROUP_SET_CONTAINER, &container))
		return "SET_CONTAINER";
	if (ioctl(container, SET_IOMMU, TYPE1V2_IOMMU))
		return "SET_IOMMU";
	device = ioctl(group, GROUP_GET_DEVICE_FD, UUID);
	if (device < 0)
		return "GET_DEVICE_FD";
	err = check_migration(device);
	close(device);
	close(group);
	close(container);
	return err;
}

/* The name of the device's character device, or NULL if the kernel has none. */
static const char *cdev_name(void)
{
	static char path[PATH_MAX];
	DIR *dir = opendir(MDEV "vfio-dev");
	struct dirent *e;
	const char *found = NULL;

	if (!dir)
		return NULL;
	while (!found && (e = readdir(dir))) {
		if (strncmp(e->d_name, "vfio", 4))
			continue;
		snprintf(path, sizeof(path), "/dev/vfio/devices/%s", e->d_name);
		if (!access(path, F_OK))
			found = path;
	}
	closedir(dir);
	return found;
}

static const char *by_cdev(const char *path)
{
	struct bind_iommufd b = { .argsz = sizeof(b) };
	const char *err;
	int iommufd, device;

	iommufd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (iommufd < 0)
		return "/dev/iommu";
	device = open(path, O_RDWR | O_CLOEXEC);
	if (device < 0)
		return path;
	b.iommufd = iommufd;
	if (ioctl(device, DEVICE_BIND_IOMMUFD, &b))
		return "BIND_IOMMUFD";
	err = check_migration(device);
	close(device);
	close(iommufd);
	return err;
}

static void first_boot(void)
{
	const char *cdev;
	FILE *f;

	if (!report("lab-mdev-create", create()))
		return;
	report("lab-mtty-group", by_group());
	cdev = cdev_name();
	if (cdev && !access("/dev/iommu", F_OK))
		report("lab-mtty-cdev", by_cdev(cdev));
	else
		printf("skip lab-mtty-cdev: this kernel has no iommufd\n");
	report("lab-mdev-remove", destroy());

	f = fopen("/share/keep/lab-sanity", "w");
	if (f) {
		fprintf(f, "%s\n", getenv("KERNEL_RELEASE"));
		fclose(f);
	}
}

static void second_boot(void)
{
	char line[256] = "";
	const char *release = getenv("KERNEL_RELEASE");
	FILE *f = fopen("/share/keep/lab-sanity", "r");

	if (f) {
		if (!fgets(line, sizeof(line), f))
			line[0] = 0;
		fclose(f);
	}
	line[strcspn(line, "\n")] = 0;
	report("lab-keep", release && !strcmp(line, release) ? NULL : "the file of the first boot is not there");
}

int main(void)
{
	const char *boot = getenv("LAB_BOOT");

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (boot && !strcmp(boot, "1"))
		first_boot();
	else if (boot && !strcmp(boot, "2"))
		second_boot();
	else
		return 77;
	return failed;
}

/* What a hostile RUN would call, as one static program. Each way in prints a line for what it tried, with the name of the
   error or what it got; the test says which of them are right. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void told(const char *what, long result)
{
	printf("%s %s\n", what, result < 0 ? strerrorname_np(errno) : "done");
	fflush(stdout);
}

/* System calls by number, with arguments that do no harm where they are not refused. */
static int calls(void)
{
	static char page[4096];
	struct io_uring_params ring;
	memset(&ring, 0, sizeof ring);
#define CALL(name, ...) told(#name, syscall(SYS_##name, ##__VA_ARGS__))
	CALL(add_key, "user", "coopery-test", "x", 1, -2 /* process keyring */);
	CALL(keyctl, 0, -2, 1);
	CALL(request_key, "user", "coopery-test", 0, 0);
	CALL(bpf, 0, page, 0);
	CALL(perf_event_open, 0, 0, -1, -1, 0);
	CALL(userfaultfd, 1 /* UFFD_USER_MODE_ONLY */);
	CALL(io_uring_setup, 1, &ring);
	CALL(fanotify_init, 0x200 /* FAN_REPORT_FID */, 0);
	CALL(kcmp, getpid(), getpid(), 0, 0, 1);
	CALL(pidfd_getfd, -1, 0, 0);
	CALL(acct, 0);
	CALL(init_module, page, 0, "");
	CALL(finit_module, -1, "", 0);
	CALL(delete_module, "coopery-test", 0);
	CALL(kexec_load, 0, 0, 0, 0);
	CALL(reboot, 0, 0, 0, 0);
	CALL(swapon, "", 0);
	CALL(quotactl, 0, "", 0, 0);
	CALL(syslog, 10 /* size */, 0, 0);
	CALL(settimeofday, 0, 0);
	CALL(clock_settime, 0, 0);
	CALL(mount, "none", "/", 0, 0x40000 /* MS_PRIVATE */, 0);
	CALL(umount2, "/none", 0);
	CALL(pivot_root, "/none", "/none");
	CALL(fsopen, "tmpfs", 0);
	CALL(open_tree, AT_FDCWD, "/", 0);
	CALL(move_mount, -1, "", -1, "", 0);
	CALL(setns, -1, 0);
	CALL(clone3, 0, 0);
	told("vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
#ifdef __x86_64__
	CALL(iopl, 0);
	CALL(ioperm, 0, 1, 0);
#endif
	static const int kinds[] = { CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET };
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		char name[32];
		snprintf(name, sizeof name, "clone:%x", kinds[i]);
		long child = syscall(SYS_clone, kinds[i] | SIGCHLD, 0, 0, 0, 0);
		if (child == 0)
			_exit(0);
		told(name, child);
		if (child > 0)
			waitpid(child, 0, 0);
	}
	CALL(unshare, CLONE_FS);
	told("unshare:user", syscall(SYS_unshare, CLONE_NEWUSER));
	return 0;
}

/* The same kernel by its 32-bit door. */
static int calls32(void)
{
#ifdef __x86_64__
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(20 /* getpid */) : "memory", "r8", "r9", "r10", "r11");
	printf("getpid %s\n", result == getpid() ? "done" : "wrong");
	static const struct { const char *name; int number; } door[] = { { "keyctl", 288 }, { "mount", 21 }, { "unshare", 310 }, { "bpf", 357 } };
	for (size_t i = 0; i < sizeof door / sizeof *door; i++) {
		__asm__ volatile("int $0x80" : "=a"(result) : "a"(door[i].number), "b"(0), "c"(-2), "d"(1) : "memory", "r8", "r9", "r10", "r11");
		printf("%s %s\n", door[i].name, result < 0 ? strerrorname_np(-result) : "done");
	}
#endif
	return 0;
}

/* A file by its number: the one at `path`, and the root of the file system that it is on. */
static int handle(const char *path)
{
	char room[sizeof(struct file_handle) + 128];
	struct file_handle *file = (void *)room;
	int mount_id, directory = open(path, O_RDONLY);
	file->handle_bytes = 128;
	told("name", name_to_handle_at(AT_FDCWD, path, file, &mount_id, 0));
	told("open", open_by_handle_at(directory, file, O_RDONLY));
	file->handle_bytes = 8;
	file->handle_type = 1;
	memcpy(file->f_handle, "\2\0\0\0\0\0\0\0", 8);
	told("root", open_by_handle_at(directory, file, O_RDONLY));
	return 0;
}

/* Every process that can be seen: its root must be ours, its memory is searched for `mark` as far as it can be read. */
static int walk(const char *mark)
{
	DIR *proc = opendir("/proc");
	struct stat own, other;
	stat("/", &own);
	for (struct dirent *entry; (entry = readdir(proc));) {
		int pid = atoi(entry->d_name);
		char path[256], line[512];
		if (!pid)
			continue;
		snprintf(path, sizeof path, "/proc/%d/root/.", pid);
		int root = stat(path, &other);
		printf("%d root %s\n", pid, root < 0 ? strerrorname_np(errno) : own.st_ino == other.st_ino && own.st_dev == other.st_dev ? "own" : "FOREIGN");
		static const char *const texts[] = { "environ", "cmdline", "maps", "auxv", "stack", "syscall", "mountinfo" };
		for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
			static char text[1 << 16];
			snprintf(path, sizeof path, "/proc/%d/%s", pid, texts[i]);
			int file = open(path, O_RDONLY);
			ssize_t size = file < 0 ? -1 : read(file, text, sizeof text);
			if (size > 0 && pid != getpid() && memmem(text, size, mark, strlen(mark)))
				printf("%d %s FOUND\n", pid, texts[i]);
			if (file >= 0)
				close(file);
		}
		snprintf(path, sizeof path, "/proc/%d/fd", pid);
		DIR *files = opendir(path);
		for (struct dirent *one; files && (one = readdir(files));) {
			int number = atoi(one->d_name);
			if (pid == getpid() || number < 3)
				continue;
			printf("%d descriptor %d\n", pid, number);
		}
		if (files)
			closedir(files);
		snprintf(path, sizeof path, "/proc/%d/maps", pid);
		FILE *maps = fopen(path, "r");
		snprintf(path, sizeof path, "/proc/%d/mem", pid);
		int memory = pid == getpid() ? -1 : open(path, O_RDONLY);
		while (maps && memory >= 0 && fgets(line, sizeof line, maps)) {
			unsigned long from, to;
			static char chunk[1 << 20];
			if (sscanf(line, "%lx-%lx r", &from, &to) != 2)
				continue;
			for (; from < to; from += sizeof chunk) {
				size_t want = to - from < sizeof chunk ? to - from : sizeof chunk;
				ssize_t size = pread(memory, chunk, want, from);
				if (size > 0 && memmem(chunk, size, mark, strlen(mark)))
					printf("%d memory FOUND\n", pid);
			}
		}
		if (maps)
			fclose(maps);
		if (memory >= 0)
			close(memory);
	}
	printf("walked\n");
	return 0;
}

/* Tracing: a child of ours, and every number that a process outside could have. */
static int trace(int highest)
{
	int child = fork();
	if (child == 0) {
		pause();
		_exit(0);
	}
	told("child", ptrace(PTRACE_SEIZE, child, 0, 0));
	kill(child, SIGKILL);
	waitpid(child, 0, 0);
	int traced = 0, signalled = 0;
	for (int pid = 1; pid <= highest; pid++) {
		if (pid == getpid() || pid == getppid())
			continue;
		traced += ptrace(PTRACE_SEIZE, pid, 0, 0) == 0;
		signalled += kill(pid, 0) == 0;
	}
	printf("traced %d signalled %d\n", traced, signalled);
	return 0;
}

static socklen_t address(struct sockaddr_un *to, const char *name)
{
	memset(to, 0, sizeof *to);
	to->sun_family = AF_UNIX;
	strncpy(to->sun_path + 1, name, sizeof to->sun_path - 2);
	return offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
}

/* An abstract socket of somebody else, and one of our own. */
static int sockets(const char *name)
{
	struct sockaddr_un to;
	char other[108];
	socklen_t size = address(&to, name);
	told("stream", connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&to, size));
	snprintf(other, sizeof other, "%s-datagram", name);
	size = address(&to, other);
	told("datagram", sendto(socket(AF_UNIX, SOCK_DGRAM, 0), "x", 1, 0, (void *)&to, size));
	snprintf(other, sizeof other, "%s-own", name);
	size = address(&to, other);
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	bind(listener, (void *)&to, size);
	listen(listener, 1);
	told("own", connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&to, size));
	return 0;
}

/* Processes until none can be made any more. */
static int processes(void)
{
	int count = 0;
	for (;; count++) {
		int child = fork();
		if (child == 0)
			for (;;)
				pause();
		if (child < 0)
			break;
	}
	printf("processes %d %s\n", count, strerrorname_np(errno));
	return 1;
}

int main(int argc, char **argv)
{
	const char *way = argc > 1 ? argv[1] : "";
	const char *what = argc > 2 ? argv[2] : "";
	if (!strcmp(way, "calls"))
		return calls();
	if (!strcmp(way, "calls32"))
		return calls32();
	if (!strcmp(way, "handle"))
		return handle(what);
	if (!strcmp(way, "walk"))
		return walk(what);
	if (!strcmp(way, "trace"))
		return trace(atoi(what));
	if (!strcmp(way, "sockets"))
		return sockets(what);
	if (!strcmp(way, "processes"))
		return processes();
	return 2;
}

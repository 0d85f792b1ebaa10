/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * Which files have libsluice's probes: the shared library, here and in containers,
 * and programs that are linked to the static one. Files are kept open, so that each
 * stays the one that was looked at. What processes run is not trusted: it is read by
 * libelf alone.
 */
#include "trace.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "ctl.h"

#define PROVIDER "sluice"
#define ADDRESSES \
	(3 * sizeof(__u64)) /* in a note, before the provider's name */

/* What was looked at, as /proc/PID/maps calls it. */
struct seen {
	__u64 (*all)[2]; /* device, inode */
	unsigned int count, room;
};

/* Probes ------------------------------------------------------------------- */

static bool has_provider(Elf_Data *notes)
{
	size_t at = 0, name, desc;
	GElf_Nhdr note;

	while ((at = gelf_getnote(notes, at, &note, &name, &desc)) > 0) {
		const char *provider =
			(const char *)notes->d_buf + desc + ADDRESSES;

		if (note.n_descsz >= ADDRESSES + sizeof(PROVIDER) &&
		    !memcmp(provider, PROVIDER, sizeof(PROVIDER)))
			return true;
	}
	return false;
}

static bool section_has_probes(Elf *elf, Elf_Scn *section, size_t names)
{
	GElf_Shdr header;
	const char *name;
	Elf_Data *data;

	if (!gelf_getshdr(section, &header) || header.sh_type != SHT_NOTE)
		return false;
	name = elf_strptr(elf, names, header.sh_name);
	if (!name || strcmp(name, ".note.stapsdt"))
		return false;
	data = elf_getdata(section, NULL);
	return data && data->d_buf && has_provider(data);
}

static bool has_probes(int fd)
{
	Elf_Scn *section = NULL;
	bool found = false;
	size_t names;
	Elf *elf;

	elf_version(EV_CURRENT);
	elf = elf_begin(fd, ELF_C_READ, NULL);
	if (elf && elf_kind(elf) == ELF_K_ELF &&
	    gelf_getclass(elf) == ELFCLASS64 && !elf_getshdrstrndx(elf, &names))
		while (!found && (section = elf_nextscn(elf, section)))
			found = section_has_probes(elf, section, names);
	elf_end(elf);
	return found;
}

/* The list ----------------------------------------------------------------- */

/*
 * Containers see one file of an image through file systems of their own, and the
 * kernel puts a probe into the file itself: it is to be traced once.
 */
static int identify(struct trace_file *file)
{
	struct statfs system;
	struct stat stat;

	if (fstat(file->fd, &stat) || fstatfs(file->fd, &system))
		return -errno;
	file->dev = system.f_type == OVERLAYFS_SUPER_MAGIC ? 0 : stat.st_dev;
	file->inode = stat.st_ino;
	return S_ISREG(stat.st_mode) ? 0 : -EINVAL;
}

static bool is_listed(const struct trace_files *files,
		      const struct trace_file *file)
{
	for (unsigned int i = 0; i < files->count; i++)
		if (files->all[i].dev == file->dev &&
		    files->all[i].inode == file->inode)
			return true;
	return false;
}

/* 0, also if it is there already; -errno; -ENOEXEC: it has no probes. */
static int add(struct trace_files *files, const char *path, const char *name)
{
	struct trace_file file = {
		.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY),
	};
	struct trace_file *more;
	int ret;

	if (file.fd < 0)
		return -errno;
	ret = identify(&file);
	if (!ret && !has_probes(file.fd))
		ret = -ENOEXEC;
	if (ret || is_listed(files, &file))
		goto unused;
	more = realloc(files->all, (files->count + 1) * sizeof(*more));
	if (more)
		files->all = more;
	file.name = strdup(name);
	if (more && file.name) {
		files->all[files->count++] = file;
		return 0;
	}
	free(file.name);
	ret = -ENOMEM;
unused:
	close(file.fd);
	return ret;
}

void trace_files_free(struct trace_files *files)
{
	while (files->count) {
		files->count--;
		close(files->all[files->count].fd);
		free(files->all[files->count].name);
	}
	free(files->all);
	files->all = NULL;
}

/* What processes run ------------------------------------------------------- */

/* Whether it is new. */
static bool see(struct seen *seen, __u64 dev, __u64 inode)
{
	void *more;

	for (unsigned int i = 0; i < seen->count; i++)
		if (seen->all[i][0] == dev && seen->all[i][1] == inode)
			return false;
	if (seen->count == seen->room) {
		more = realloc(seen->all,
			       (seen->room + 256) * sizeof(*seen->all));
		if (!more)
			return true;
		seen->all = more;
		seen->room += 256;
	}
	seen->all[seen->count][0] = dev;
	seen->all[seen->count++][1] = inode;
	return true;
}

/* A line of /proc/PID/maps. map_files has what is deleted or in a container, too. */
static int add_mapping(struct trace_files *files, struct seen *seen,
		       const char *pid, const char *line)
{
	uint64_t start, end, inode;
	unsigned int major, minor;
	char rights[8], path[64];
	int name = 0, ret;

	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %*x %x:%x %" SCNu64 " %n",
		   &start, &end, rights, &major, &minor, &inode, &name) < 6 ||
	    !name || !inode || rights[2] != 'x' ||
	    !see(seen, (__u64)major << 32 | minor, inode))
		return 0;
	snprintf(path, sizeof(path),
		 "/proc/%.12s/map_files/%" PRIx64 "-%" PRIx64, pid, start, end);
	ret = add(files, path, line + name);
	return ret == -ENOMEM ? ret : 0; /* others: gone by now, or not ours */
}

static int add_process(struct trace_files *files, struct seen *seen,
		       const char *pid)
{
	char path[32], *line = NULL;
	size_t size = 0;
	ssize_t len;
	FILE *maps;
	int ret = 0;

	snprintf(path, sizeof(path), "/proc/%.12s/maps", pid);
	maps = fopen(path, "re");
	if (!maps)
		return 0; /* gone by now */
	while (!ret && (len = getline(&line, &size, maps)) > 0) {
		if (line[len - 1] == '\n')
			line[len - 1] = '\0';
		ret = add_mapping(files, seen, pid, line);
	}
	free(line);
	fclose(maps);
	return ret;
}

static int add_running(struct trace_files *files)
{
	struct seen seen = { 0 };
	struct dirent *entry;
	DIR *proc = opendir("/proc");
	int ret = 0;

	if (!proc)
		return -errno;
	while (!ret && (entry = readdir(proc)))
		if (isdigit(entry->d_name[0]))
			ret = add_process(files, &seen, entry->d_name);
	free(seen.all);
	closedir(proc);
	return ret;
}

int trace_files_find(char *const *names, struct trace_files *files)
{
	int ret = 0;

	*files = (struct trace_files){ 0 };
	for (; !ret && *names; names++) {
		ret = add(files, *names, *names);
		if (ret == -ENOEXEC || ret == -EINVAL)
			return ctl_failed("%s has no probes of sluice: name "
					  "libsluice.so, or a program that is "
					  "linked to libsluice.a",
					  *names);
		if (ret)
			return ctl_failed("%s: %s", *names, strerror(-ret));
	}
	if (files->count)
		return 0;
	ret = add(files, SLUICE_LIBRARY, SLUICE_LIBRARY);
	if (ret != -ENOMEM)
		ret = add_running(files);
	if (ret)
		return ctl_failed("/proc: %s", strerror(-ret));
	return files->count ? 0 :
			      ctl_failed("no " SLUICE_LIBRARY
					 ", and nothing runs that has probes "
					 "of sluice: name a file");
}

/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * verifier-tool OBJECT.bpf.o...: what each program in them costs the verifier of
 * this kernel, in instructions processed:
 *
 *	verifier steer/steer 4021
 *	verifier other/prog - Invalid argument	(this kernel does not load it)
 *
 * Each is loaded alone, so that one which cannot be loaded hides no other.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* As user/daemon/loop.c has it: what libbpf of Debian 12 does not say. */
#define SLEEPABLE (1u << 4)
#define LINK (1u << 13)

static int silent(enum libbpf_print_level level, const char *format,
		  va_list args)
{
	(void)level;
	(void)format;
	(void)args;
	return 0;
}

static void choose(struct bpf_object *object, const char *wanted)
{
	struct bpf_program *program;
	struct bpf_map *map;

	bpf_object__for_each_program(program, object)
	{
		const char *name = bpf_program__name(program);

		bpf_program__set_autoload(program, !strcmp(name, wanted));
		if (bpf_program__type(program) == BPF_PROG_TYPE_STRUCT_OPS)
			bpf_program__set_flags(program, SLEEPABLE);
	}
	bpf_object__for_each_map(map, object)
	{
		if (bpf_map__type(map) == BPF_MAP_TYPE_STRUCT_OPS)
			bpf_map__set_map_flags(map, LINK);
	}
}

static bool report(const char *path, const char *object_name, const char *name)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);
	struct bpf_prog_info info = { 0 };
	__u32 len = sizeof(info);
	int r;

	if (!object) {
		perror(path);
		return false;
	}
	choose(object, name);
	r = bpf_object__load(object);
	if (r) {
		printf("verifier %s/%s - %s\n", object_name, name,
		       strerror(-r));
	} else {
		int fd = bpf_program__fd(
			bpf_object__find_program_by_name(object, name));

		r = bpf_obj_get_info_by_fd(fd, &info, &len);
		if (r)
			perror(name);
		else
			printf("verifier %s/%s %u\n", object_name, name,
			       info.verified_insns);
	}
	bpf_object__close(object);
	return true;
}

static bool report_all(const char *path)
{
	const char *slash = strrchr(path, '/');
	struct bpf_object *object = bpf_object__open_file(path, NULL);
	struct bpf_program *program;
	char name[64];
	bool fine = true;

	if (!object) {
		perror(path);
		return false;
	}
	snprintf(name, sizeof(name), "%s", slash ? slash + 1 : path);
	name[strcspn(name, ".")] = 0;
	bpf_object__for_each_program(program, object)
		fine &= report(path, name, bpf_program__name(program));
	bpf_object__close(object);
	return fine;
}

int main(int argc, char **argv)
{
	bool fine = argc > 1;

	libbpf_set_print(silent);
	for (int i = 1; i < argc; i++)
		fine &= report_all(argv[i]);
	return fine ? 0 : 1;
}

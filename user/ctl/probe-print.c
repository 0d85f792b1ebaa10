/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * sluicectl probe: the table of features.
 */
#include "ctl.h"
#include "probe.h"

#include <stdio.h>

#define FEATURES_MAX 64

struct answer {
	const struct probe_feature *feature;
	enum probe_result result;
	char why[PROBE_WHY];
};

/* The features that were asked for, or all; how many, or -1 for a bad name. */
static int choose(char **names, struct answer answers[FEATURES_MAX])
{
	unsigned int i, count = 0;

	for (i = 0; !*names && i < probe_feature_count; i++)
		answers[count++].feature = &probe_features[i];
	for (; *names; names++) {
		if (count == FEATURES_MAX)
			return ctl_usage("too many features"), -1;
		answers[count].feature = probe_find(*names);
		if (!answers[count++].feature)
			return ctl_usage("no feature \"%s\"", *names), -1;
	}
	return (int)count;
}

/* The worst result among what this use cannot do without. */
static enum probe_result judge(const struct answer *answers, int count,
			       enum probe_use use)
{
	enum probe_result worst = PROBE_YES;
	int i;

	for (i = 0; i < count; i++) {
		if (!answers[i].feature->needed ||
		    answers[i].feature->use != use)
			continue;
		if (answers[i].result == PROBE_NO)
			return PROBE_NO;
		if (answers[i].result == PROBE_UNKNOWN)
			worst = PROBE_UNKNOWN;
	}
	return worst;
}

static json_t *answer_json(const struct answer *answer)
{
	return json_pack("{s:s, s:s, s:s, s:b, s:s, s:s}", "name",
			 answer->feature->name, "what", answer->feature->what,
			 "use", probe_uses[answer->feature->use], "needed",
			 answer->feature->needed, "result",
			 probe_results[answer->result], "why", answer->why);
}

static json_t *answers_json(const struct answer *answers, int count, bool all)
{
	json_t *features = json_array(), *uses = json_object();
	int i;

	for (i = 0; i < count; i++)
		json_array_append_new(features, answer_json(&answers[i]));
	for (i = 0; all && i <= USE_STEERED; i++)
		json_object_set_new(
			uses, probe_uses[i],
			json_string(probe_results[judge(answers, count, i)]));
	return json_pack("{s:o, s:o}", "features", features, "uses", uses);
}

static void answers_print(const struct answer *answers, int count)
{
	const struct answer *answer;
	int last = -1;

	for (answer = answers; answer < answers + count; answer++) {
		if ((int)answer->feature->use != last)
			printf("%s%s\n", last < 0 ? "" : "\n",
			       probe_uses[answer->feature->use]);
		last = answer->feature->use;
		printf("  %-18s %-8s %s%s%s%s\n", answer->feature->name,
		       probe_results[answer->result], answer->feature->what,
		       answer->why[0] ? " (" : "", answer->why,
		       answer->why[0] ? ")" : "");
	}
}

static void summary_print(const struct answer *answers, int count)
{
	const enum probe_result steered = judge(answers, count, USE_STEERED);

	printf("\nQueued and direct lanes: %s. Steered lane: %s.\n",
	       probe_results[judge(answers, count, USE_LANES)],
	       probe_results[steered]);
	if (steered == PROBE_UNKNOWN)
		printf("Run it as root to know more.\n");
	else if (steered == PROBE_YES)
		printf("Next: start sluiced, see sluiced(8).\n");
}

static int run(const struct ctl_options *options)
{
	const bool all = !*options->operands;
	struct answer answers[FEATURES_MAX];
	int count, i, code = 0;

	count = choose(options->operands, answers);
	if (count < 0)
		return CTL_USAGE;
	for (i = 0; i < count; i++) {
		answers[i].result =
			probe_run(answers[i].feature, answers[i].why);
		if (!all && answers[i].result != PROBE_YES)
			code = CTL_FAILED;
	}
	if (options->json)
		return ctl_json(answers_json(answers, count, all), code);
	answers_print(answers, count);
	if (all)
		summary_print(answers, count);
	return code;
}

const struct ctl_command ctl_probe = {
	.name = "probe",
	.summary = "what this kernel can do for sluice, by trying it",
	.help = "[--json] [FEATURE]...\n"
		"Tries what sluice uses of the kernel. What only root may try says "
		"\"needs root\".\n"
		"Nothing stays behind.\n\n"
		"  --json      as JSON\n"
		"  FEATURE     only these, by name: exits with 1 unless all are there\n",
	.letters = "j",
	.operands = true,
	.run = run,
};

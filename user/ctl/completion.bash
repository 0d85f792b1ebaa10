# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
# shellcheck shell=bash
#
# Completion for bash of every command of sluice. What there is to complete comes
# from their --help, so that this knows no option by name.

# _sluice_words COMMAND [SUBCOMMAND]: its options, and the subcommands of sluicectl.
_sluice_words()
{
	"$@" --help 2>/dev/null | sed -nE '
		s/^ +(-[a-zA-Z], )?(--[a-z-]+).*/\2/p
		s/^ +--[a-z-]+, (--[a-z-]+).*/\1/p
		s/^  ([a-z]+) +[a-z].*/\1/p'
}

_sluice()
{
	local command=$1 word=$2 subcommand=()

	COMPREPLY=()
	test "${command##*/}" = sluicectl && test "$COMP_CWORD" -gt 1 &&
		subcommand=("${COMP_WORDS[1]}")
	case $word in
	-*) ;;
	*)
		# operands, and values of options: files, mostly
		test "${command##*/}" = sluicectl && test "$COMP_CWORD" = 1 ||
			return
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -W \
		"$(_sluice_words "$command" "${subcommand[@]}")" -- "$word")
}

complete -o default -F _sluice sluicectl sluiced sluicecat sluice-bench

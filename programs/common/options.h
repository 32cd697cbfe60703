/*-------------------------------------------------------------------------
 *
 * options.h
 *	  A program's options, from its command line and from a file.
 *
 * The file has the options' names, without the dashes: "name = value", one on a
 * line; what follows a '#' at a line's beginning is a comment.  The command
 * line counts for more than the file.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COMMON_OPTIONS_H
#define COMMON_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

typedef enum OptionKind
{
	OPTION_TEXT,				/* target: char **, allocated */
	OPTION_NUMBER,				/* target: int64_t * */
	OPTION_FLAG					/* target: bool * */
} OptionKind;

typedef struct Option
{
	const char *name;
	OptionKind	kind;
	void	   *target;
	int64_t		least;			/* of a number */
	int64_t		most;
	const char *value_name;		/* for the help; NULL for a flag */
	const char *help;
	bool		given;			/* on the command line */
} Option;

extern bool options_read_arguments(Option *options, int count, int argc,
								   char **argv, char *error,
								   int error_size);
extern bool options_read_file(Option *options, int count, const char *path,
							  char *error, int error_size);
extern void options_print(const Option *options, int count);

#endif

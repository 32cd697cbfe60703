/*-------------------------------------------------------------------------
 *
 * reply.h
 *	  Messages of PostgreSQL's protocol to a client, put into its queue.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_REPLY_H
#define GATEWAY_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/queue.h"

/* An error or notice.  Fields that are NULL, or a position of 0, are left out. */
typedef struct Report
{
	const char *severity;		/* NULL: ERROR */
	const char *sqlstate;
	const char *message;
	const char *detail;
	const char *hint;
	int			position;		/* in the query, in characters, from 1 */
} Report;

/* A column of a result. */
typedef struct ReplyColumn
{
	const char *name;
	uint32_t	type;
	int16_t		type_size;
	bool		binary;
} ReplyColumn;

/* A value of a result; NULL data is NULL. */
typedef struct ReplyValue
{
	const char *data;
	size_t		length;
} ReplyValue;

extern void reply_plain(Queue *queue, char type);
extern void reply_raw(Queue *queue, char type, const void *body,
					  size_t length);
extern void reply_report(Queue *queue, const Report *report);
extern void reply_notice(Queue *queue, const Report *report);
extern void reply_parameter(Queue *queue, const char *name, const char *value);
extern void reply_key(Queue *queue, uint32_t pid, uint32_t key);
extern void reply_negotiate(Queue *queue, const char *const *options,
							int count);
extern void reply_ready(Queue *queue, char status);
extern void reply_complete(Queue *queue, const char *tag);
extern void reply_columns(Queue *queue, const ReplyColumn *columns, int count);
extern void reply_values(Queue *queue, const ReplyValue *values, int count);
extern void reply_parameter_types(Queue *queue, const uint32_t *types,
								  int count);
extern Piece *notification_make(uint32_t pid, const char *channel,
								const char *payload);

#endif

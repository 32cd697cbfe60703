/*-------------------------------------------------------------------------
 *
 * roles.c
 *	  The roles that clients have logged in as: one name for all of a role's.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "gateway/client.h"
#include "gateway/gateway.h"
#include "gateway/limits.h"

static HashTable roles;

/* The role of that name, with one reference more. */
Role *
role_hold(const char *name)
{
	uint64_t	hash = hash_string(name);
	HashNode   *node;
	Role	   *role;

	for (node = hash_first(&roles, hash); node != NULL; node = hash_next(node))
	{
		role = hash_container(Role, node, node);
		if (strcmp(role->name, name) == 0)
		{
			role->references++;
			return role;
		}
	}
	role = memory_get_zeroed(sizeof(Role) + strlen(name) + 1);
	strcpy(role->name, name);
	role->references = 1;
	hash_insert(&roles, &role->node, hash);
	return role;
}

/* Give a reference up; the role may be NULL. */
void
role_release(Role *role)
{
	if (role == NULL || --role->references > 0)
		return;
	hash_remove(&roles, &role->node);
	free(role);
}

/* The names of all roles that clients have, to be freed; they stay theirs. */
const char **
roles_in_use(int *count)
{
	const char **names = memory_get((roles.count + 1) * sizeof(char *));

	*count = 0;
	for (size_t i = 0; i < roles.size; i++)
	{
		for (HashNode *node = roles.heads[i]; node != NULL; node = node->next)
			names[(*count)++] = hash_container(Role, node, node)->name;
	}
	return names;
}

/* What clients_end_role() was given. */
typedef struct RoleEnding
{
	const char *role;
	const Report *report;
} RoleEnding;

/* End the client, if it has logged in as the role. */
static void
end_of_role(Client *client, const void *context)
{
	const RoleEnding *ending = context;

	if (client->role != NULL && strcmp(client->role->name, ending->role) == 0)
		client_end(client, ending->report, "ended: its role may not connect any more");
}

/* End the clients of that role that have logged in. */
void
clients_end_role(const char *role, const Report *report)
{
	RoleEnding	ending = {role, report};

	clients_visit(end_of_role, &ending);
}

/* End the client, if it has logged in too long ago. */
static void
end_if_old(Client *client, const void *context)
{
	static const Report report = {
		.sqlstate = "57P01",
		.message = "terminating connection because the session is too old",
		.detail = "The gateway has a max-session-age.",
		.hint = "Connect again.",
	};

	(void) context;
	if (client->role != NULL &&
		gateway_now() - client->logged_in_at >= (uint64_t) limits.max_session_age * 1000)
		client_end(client, &report, "ended: its session is too old");
}

/*
 * End the clients that have logged in too long ago: who has another password since
 * has to show it.
 */
void
clients_end_old(void)
{
	if (limits.max_session_age > 0)
		clients_visit(end_if_old, NULL);
}

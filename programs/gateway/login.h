/*-------------------------------------------------------------------------
 *
 * login.h
 *	  A client's way from its first packet to ReadyForQuery.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_LOGIN_H
#define GATEWAY_LOGIN_H

#include <stdbool.h>
#include <stddef.h>

#include "gateway/client.h"
#include "gateway/packet.h"

extern void login_init(void);
extern void login_startup(Client *client, const Packet *packet, size_t behind);
extern void login_probe(Client *client, char *user, char *password);
extern void login_answer(Client *client, const Packet *packet);
extern bool login_wants_answer(const Client *client);
extern void login_timed_out(Client *client);
extern void login_drop(Client *client);

#endif

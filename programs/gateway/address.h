/*-------------------------------------------------------------------------
 *
 * address.h
 *	  From which addresses clients may come, and how often they may fail there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef GATEWAY_ADDRESS_H
#define GATEWAY_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

typedef struct AddressList AddressList;

extern AddressList *addresses_read(const char *text, char *error, size_t size);
extern void addresses_free(AddressList *list);
extern bool address_is_in(const AddressList *list, const struct sockaddr *address);
extern bool address_may_log_in(const char *host, const char *role);
extern void address_has_failed(const char *host, const char *role);

#endif

/*-------------------------------------------------------------------------
 *
 * systemd.h
 *	  What systemd is told of a service of type notify.
 *
 *-------------------------------------------------------------------------
 */
#ifndef COMMON_SYSTEMD_H
#define COMMON_SYSTEMD_H

extern void systemd_tell(const char *state);

#endif

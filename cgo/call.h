/* One call across the boundary: arguments become a request, a response becomes the caller's memory.

   A call remembers its first refusal in rv; after it, the functions below do nothing. Entry points are therefore straight lists:
   call_begin, every argument with put_, call_send, every output with get_, call_end. What the bytes are is said in
   internal/boundary. Request and response may hold secrets: their memory is wiped before it is given back. */
#ifndef CALL_H
#define CALL_H

#include <stdbool.h>

#include "cryptoki.h"
#include "messages_gen.h"

struct call {
	CK_RV rv;
	unsigned char *request;
	size_t request_length, request_room;
	unsigned char *response;
	size_t response_length, response_at;
	CK_ULONG room; /* of the output buffer, as the caller told */
};

void call_begin(struct call *c, enum function_number number);
void call_send(struct call *c);
CK_RV call_end(struct call *c);

/* Refuses the call with rv unless it was refused already. */
void call_refuse(struct call *c, CK_RV rv);

/* Arguments. too_long is the answer when the bytes do not fit into a message. */
void put_ulong(struct call *c, CK_ULONG value);
void put_bool(struct call *c, CK_BBOOL value);
void put_label(struct call *c, const CK_UTF8CHAR *label);
void put_bytes(struct call *c, const void *bytes, CK_ULONG length, CK_RV too_long);
void put_mechanism(struct call *c, const CK_MECHANISM *mechanism);
void put_optional_mechanism(struct call *c, const CK_MECHANISM *mechanism);
void put_template(struct call *c, const CK_ATTRIBUTE *attributes, CK_ULONG count);
void put_query(struct call *c, const CK_ATTRIBUTE *attributes, CK_ULONG count);
void put_buffer(struct call *c, const void *buffer, const CK_ULONG *length);
void put_last_buffer(struct call *c, const void *buffer, const CK_ULONG *length);
void put_found(struct call *c, const CK_OBJECT_HANDLE *objects, CK_ULONG max, const CK_ULONG *count);

/* Demands a place for an output. */
void need(struct call *c, const void *place);
void need_for(struct call *c, const void *place, CK_ULONG length);

/* Refuses what is reserved. */
void forbid(struct call *c, const void *place);

/* Outputs. */
void get_ulong(struct call *c, CK_ULONG *value);
void get_text(struct call *c, void *text, size_t size);
void get_version(struct call *c, CK_VERSION *version);
void get_buffer(struct call *c, void *buffer, CK_ULONG *length);
void get_last_buffer(struct call *c, void *buffer, CK_ULONG *length);
void get_exact(struct call *c, void *buffer, CK_ULONG length);
void get_list(struct call *c, CK_ULONG *list, CK_ULONG *count);
void get_found(struct call *c, CK_OBJECT_HANDLE *objects, CK_ULONG max, CK_ULONG *count);
void get_query(struct call *c, CK_ATTRIBUTE *attributes, CK_ULONG count);

/* Long buffers go in parts: the next part's length, and its place. */
CK_ULONG part_length(CK_ULONG left);
void *part_at(void *buffer, CK_ULONG done);

/* Mechanism parameters that do not go as they are (mechanisms_gen.c). */
enum parameter_field_kind { FIELD_ULONG, FIELD_BUFFER };

struct parameter_field {
	enum parameter_field_kind kind;
	size_t offset, length_offset;
};

struct parameter_layout {
	size_t size, count;
	const struct parameter_field *fields;
};

/* The layout of a mechanism's parameter, NULL for a flat one. */
const struct parameter_layout *parameter_layout(CK_MECHANISM_TYPE mechanism);

#endif

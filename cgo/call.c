#include "call.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "boundary.h"
#include "replay.h"

_Static_assert(sizeof(CK_ULONG) == 8, "the wire has CK_ULONG as 64 bits");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "attribute values cross in native order, which the wire has as little-endian");

#define NULL_LENGTH (~0UL)
#define LABEL_LENGTH 32
#define REFUSED_LENGTH (sizeof(uint32_t) + sizeof(uint64_t)) /* of a request's function and session */

void call_refuse(struct call *c, CK_RV rv)
{
	if (c->rv == CKR_OK)
		c->rv = rv;
}

static void wipe_and_free(unsigned char *bytes, size_t length)
{
	if (bytes != NULL) {
		explicit_bzero(bytes, length);
		free(bytes);
	}
}

static bool make_room(struct call *c, size_t more)
{
	size_t room = c->request_room ? c->request_room : 256;
	unsigned char *grown;

	while (room - c->request_length < more)
		room *= 2;
	if (room == c->request_room)
		return true;
	grown = malloc(room);
	if (grown == NULL) {
		call_refuse(c, CKR_HOST_MEMORY);
		return false;
	}
	if (c->request != NULL)
		memcpy(grown, c->request, c->request_length);
	wipe_and_free(c->request, c->request_length);
	c->request = grown;
	c->request_room = room;
	return true;
}

static void put(struct call *c, const void *bytes, size_t length, CK_RV too_long)
{
	if (c->rv != CKR_OK)
		return;
	if (length > MAX_MESSAGE - c->request_length) {
		call_refuse(c, too_long);
		return;
	}
	if (length == 0 || !make_room(c, length))
		return;
	memcpy(c->request + c->request_length, bytes, length);
	c->request_length += length;
}

void call_begin(struct call *c, enum function_number number)
{
	uint32_t n = number;

	memset(c, 0, sizeof *c);
	c->rv = boundary_ready();
	put(c, &n, sizeof n, CKR_ARGUMENTS_BAD);
}

/* Tells of a call that was refused here, if it ends an operation. Its session is its first argument. */
static void tell_refusal(const struct call *c)
{
	const uint32_t number = CALL_REFUSED;
	unsigned char message[sizeof number + REFUSED_LENGTH], *response;
	size_t response_length;

	if (c->request_length < REFUSED_LENGTH || !replay_rule_of(c->request, c->request_length)->ends_when_refused)
		return;
	memcpy(message, &number, sizeof number);
	memcpy(message + sizeof number, c->request, REFUSED_LENGTH);
	if (boundary_exchange(message, sizeof message, &response, &response_length) == CKR_OK)
		wipe_and_free(response, response_length);
}

void call_send(struct call *c)
{
	CK_ULONG rv = CKR_OK;

	if (c->rv != CKR_OK) {
		tell_refusal(c);
		return;
	}
	c->rv = boundary_exchange(c->request, c->request_length, &c->response, &c->response_length);
	if (c->rv != CKR_OK)
		return;
	get_ulong(c, &rv);
	call_refuse(c, rv);
}

CK_RV call_end(struct call *c)
{
	if (c->rv == CKR_OK && c->response_at != c->response_length)
		c->rv = CKR_GENERAL_ERROR;
	wipe_and_free(c->request, c->request_length);
	wipe_and_free(c->response, c->response_length);
	c->request = c->response = NULL;
	return c->rv;
}

void put_ulong(struct call *c, CK_ULONG value)
{
	put(c, &value, sizeof value, CKR_ARGUMENTS_BAD);
}

void put_bool(struct call *c, CK_BBOOL value)
{
	unsigned char byte = value != CK_FALSE;

	put(c, &byte, 1, CKR_ARGUMENTS_BAD);
}

void put_label(struct call *c, const CK_UTF8CHAR *label)
{
	need(c, label);
	put(c, label, LABEL_LENGTH, CKR_ARGUMENTS_BAD);
}

/* As put_bytes, with the answer for a NULL pointer that has a length. */
static void put_counted(struct call *c, const void *bytes, CK_ULONG length, CK_RV null, CK_RV too_long)
{
	if (bytes == NULL) {
		if (length != 0)
			call_refuse(c, null);
		put_ulong(c, NULL_LENGTH);
		return;
	}
	if (length > MAX_MESSAGE)
		call_refuse(c, too_long);
	put_ulong(c, length);
	put(c, bytes, length, too_long);
}

void put_bytes(struct call *c, const void *bytes, CK_ULONG length, CK_RV too_long)
{
	put_counted(c, bytes, length, CKR_ARGUMENTS_BAD, too_long);
}

static void put_parameter_fields(struct call *c, const struct parameter_layout *layout, const unsigned char *parameter)
{
	for (size_t i = 0; i < layout->count; i++) {
		const struct parameter_field *field = &layout->fields[i];
		CK_ULONG number;
		const void *buffer;

		if (field->kind == FIELD_ULONG) {
			memcpy(&number, parameter + field->offset, sizeof number);
			put_ulong(c, number);
		} else {
			memcpy(&buffer, parameter + field->offset, sizeof buffer);
			memcpy(&number, parameter + field->length_offset, sizeof number);
			put_counted(c, buffer, number, CKR_MECHANISM_PARAM_INVALID, CKR_MECHANISM_PARAM_INVALID);
		}
	}
}

void put_mechanism(struct call *c, const CK_MECHANISM *mechanism)
{
	const struct parameter_layout *layout;
	size_t length_at;
	uint64_t length;

	need(c, mechanism);
	if (c->rv != CKR_OK)
		return;
	put_ulong(c, mechanism->mechanism);
	layout = parameter_layout(mechanism->mechanism);
	if (layout == NULL || mechanism->pParameter == NULL) {
		put_counted(c, mechanism->pParameter, mechanism->ulParameterLen, CKR_MECHANISM_PARAM_INVALID, CKR_MECHANISM_PARAM_INVALID);
		return;
	}
	if (mechanism->ulParameterLen != layout->size) {
		call_refuse(c, CKR_MECHANISM_PARAM_INVALID);
		return;
	}
	length_at = c->request_length;
	put_ulong(c, 0);
	put_parameter_fields(c, layout, mechanism->pParameter);
	if (c->rv != CKR_OK)
		return;
	length = c->request_length - length_at - sizeof length;
	memcpy(c->request + length_at, &length, sizeof length);
}

void put_optional_mechanism(struct call *c, const CK_MECHANISM *mechanism)
{
	static const CK_MECHANISM none = {CK_UNAVAILABLE_INFORMATION, NULL, 0};

	if (mechanism != NULL && mechanism->mechanism == none.mechanism)
		call_refuse(c, CKR_MECHANISM_INVALID);
	put_mechanism(c, mechanism != NULL ? mechanism : &none);
}

/* Attributes whose value is an array of attributes, with pointers in it. Vendors' attributes may have the bit by chance, and go as they are. */
static bool nested(CK_ATTRIBUTE_TYPE type)
{
	return (type & (CKF_ARRAY_ATTRIBUTE | CKA_VENDOR_DEFINED)) == CKF_ARRAY_ATTRIBUTE && type != CKA_ALLOWED_MECHANISMS;
}

/* Begins an array of attributes; smallest is the least that one takes in a message. */
static void put_count(struct call *c, const CK_ATTRIBUTE *attributes, CK_ULONG count, size_t smallest)
{
	if ((attributes == NULL && count != 0) || count > MAX_MESSAGE / smallest)
		call_refuse(c, CKR_ARGUMENTS_BAD);
	put_ulong(c, count);
}

void put_template(struct call *c, const CK_ATTRIBUTE *attributes, CK_ULONG count)
{
	put_count(c, attributes, count, 16);
	for (CK_ULONG i = 0; i < count && c->rv == CKR_OK; i++) {
		if (nested(attributes[i].type))
			call_refuse(c, CKR_ATTRIBUTE_VALUE_INVALID);
		put_ulong(c, attributes[i].type);
		put_counted(c, attributes[i].pValue, attributes[i].ulValueLen, CKR_ATTRIBUTE_VALUE_INVALID, CKR_ATTRIBUTE_VALUE_INVALID);
	}
}

void put_query(struct call *c, const CK_ATTRIBUTE *attributes, CK_ULONG count)
{
	put_count(c, attributes, count, 17);
	for (CK_ULONG i = 0; i < count && c->rv == CKR_OK; i++) {
		put_ulong(c, attributes[i].type);
		put_bool(c, attributes[i].pValue == NULL);
		put_ulong(c, attributes[i].pValue == NULL ? 0 : attributes[i].ulValueLen);
	}
}

void put_buffer(struct call *c, const void *buffer, const CK_ULONG *length)
{
	need(c, length);
	if (c->rv != CKR_OK)
		return;
	c->room = buffer == NULL ? 0 : *length;
	put_bool(c, buffer == NULL);
	put_ulong(c, c->room);
}

void put_last_buffer(struct call *c, const void *buffer, const CK_ULONG *length)
{
	static const CK_ULONG nothing = 0;

	put_bool(c, length != NULL);
	if (length == NULL && buffer != NULL)
		call_refuse(c, CKR_ARGUMENTS_BAD);
	put_buffer(c, buffer, length != NULL ? length : &nothing);
}

void put_found(struct call *c, const CK_OBJECT_HANDLE *objects, CK_ULONG max, const CK_ULONG *count)
{
	need(c, count);
	need_for(c, objects, max);
	put_ulong(c, max < MAX_FOUND ? max : MAX_FOUND);
}

void need(struct call *c, const void *place)
{
	if (place == NULL)
		call_refuse(c, CKR_ARGUMENTS_BAD);
}

void need_for(struct call *c, const void *place, CK_ULONG length)
{
	if ((place == NULL && length != 0) || length > PTRDIFF_MAX)
		call_refuse(c, CKR_ARGUMENTS_BAD);
}

void forbid(struct call *c, const void *place)
{
	if (place != NULL)
		call_refuse(c, CKR_ARGUMENTS_BAD);
}

/* The next length bytes of the response, NULL (and a refusal) if they are not there. */
static const unsigned char *take(struct call *c, size_t length)
{
	const unsigned char *bytes = c->response + c->response_at;

	if (length > c->response_length - c->response_at) {
		c->rv = CKR_GENERAL_ERROR;
		return NULL;
	}
	c->response_at += length;
	return bytes;
}

static uint64_t take_u64(struct call *c)
{
	const unsigned char *bytes = take(c, sizeof(uint64_t));
	uint64_t value = 0;

	if (bytes != NULL)
		memcpy(&value, bytes, sizeof value);
	return value;
}

/* The next counted bytes; their length is 0 and NULL is returned where NULL was sent, and after a fault. */
static const unsigned char *take_counted(struct call *c, uint64_t *length)
{
	const unsigned char *bytes = NULL;

	*length = take_u64(c);
	if (c->rv != CKR_GENERAL_ERROR && *length != NULL_LENGTH)
		bytes = take(c, *length);
	if (bytes == NULL)
		*length = 0;
	return bytes;
}

void get_ulong(struct call *c, CK_ULONG *value)
{
	uint64_t number;

	if (c->rv != CKR_OK)
		return;
	number = take_u64(c);
	if (c->rv == CKR_OK)
		*value = number;
}

void get_text(struct call *c, void *text, size_t size)
{
	const unsigned char *bytes;

	if (c->rv != CKR_OK)
		return;
	bytes = take(c, size);
	if (bytes != NULL)
		memcpy(text, bytes, size);
}

void get_version(struct call *c, CK_VERSION *version)
{
	get_text(c, version, sizeof *version);
}

void get_buffer(struct call *c, void *buffer, CK_ULONG *length)
{
	const unsigned char *bytes;
	uint64_t needed, given;

	if (c->rv != CKR_OK && c->rv != CKR_BUFFER_TOO_SMALL)
		return;
	needed = take_u64(c);
	bytes = take_counted(c, &given);
	if (c->rv == CKR_OK && buffer != NULL) {
		if (given != needed || given > c->room) {
			c->rv = CKR_GENERAL_ERROR;
			return;
		}
		if (given != 0)
			memcpy(buffer, bytes, given);
	}
	if (c->rv == CKR_OK || c->rv == CKR_BUFFER_TOO_SMALL)
		*length = needed;
}

void get_last_buffer(struct call *c, void *buffer, CK_ULONG *length)
{
	if (length != NULL)
		get_buffer(c, buffer, length);
}

void get_exact(struct call *c, void *buffer, CK_ULONG length)
{
	const unsigned char *bytes;
	uint64_t given;

	if (c->rv != CKR_OK)
		return;
	bytes = take_counted(c, &given);
	if (given != length)
		call_refuse(c, CKR_GENERAL_ERROR);
	else if (given != 0)
		memcpy(buffer, bytes, given);
}

/* Takes a count and as many numbers; NULL after a fault. */
static const unsigned char *take_list(struct call *c, uint64_t *count)
{
	*count = take_u64(c);
	if (c->rv == CKR_OK && *count > MAX_MESSAGE / sizeof(CK_ULONG))
		c->rv = CKR_GENERAL_ERROR;
	return c->rv == CKR_OK ? take(c, *count * sizeof(CK_ULONG)) : NULL;
}

void get_list(struct call *c, CK_ULONG *list, CK_ULONG *count)
{
	const unsigned char *numbers;
	uint64_t n;

	if (c->rv != CKR_OK)
		return;
	numbers = take_list(c, &n);
	if (numbers == NULL)
		return;
	if (list != NULL && n > *count)
		c->rv = CKR_BUFFER_TOO_SMALL;
	else if (list != NULL && n != 0)
		memcpy(list, numbers, n * sizeof *list);
	*count = n;
}

void get_found(struct call *c, CK_OBJECT_HANDLE *objects, CK_ULONG max, CK_ULONG *count)
{
	const unsigned char *numbers;
	uint64_t n;

	if (c->rv != CKR_OK)
		return;
	numbers = take_list(c, &n);
	if (numbers == NULL)
		return;
	if (n > max) {
		c->rv = CKR_GENERAL_ERROR;
		return;
	}
	if (n != 0)
		memcpy(objects, numbers, n * sizeof *objects);
	*count = n;
}

static bool has_attributes(CK_RV rv)
{
	return rv == CKR_OK || rv == CKR_ATTRIBUTE_SENSITIVE || rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_BUFFER_TOO_SMALL;
}

static void get_attribute(struct call *c, CK_ATTRIBUTE *attribute)
{
	const unsigned char *unavailable = take(c, 1), *value;
	uint64_t length = take_u64(c), given;

	value = take_counted(c, &given);
	if (c->rv == CKR_GENERAL_ERROR)
		return;
	if (unavailable != NULL && *unavailable != 0) {
		attribute->ulValueLen = CK_UNAVAILABLE_INFORMATION;
		return;
	}
	if (value != NULL && (attribute->pValue == NULL || nested(attribute->type) || given != length || given > attribute->ulValueLen))
		c->rv = CKR_GENERAL_ERROR;
	if (value == NULL && attribute->pValue != NULL && length != 0 && c->rv == CKR_OK)
		c->rv = CKR_GENERAL_ERROR;
	if (c->rv == CKR_GENERAL_ERROR)
		return;
	if (given != 0)
		memcpy(attribute->pValue, value, given);
	attribute->ulValueLen = length;
}

void get_query(struct call *c, CK_ATTRIBUTE *attributes, CK_ULONG count)
{
	if (!has_attributes(c->rv))
		return;
	if (take_u64(c) != count)
		c->rv = CKR_GENERAL_ERROR;
	for (CK_ULONG i = 0; i < count && has_attributes(c->rv); i++)
		get_attribute(c, &attributes[i]);
}

CK_ULONG part_length(CK_ULONG left)
{
	return left < PART_SIZE ? left : PART_SIZE;
}

void *part_at(void *buffer, CK_ULONG done)
{
	return buffer == NULL ? NULL : (unsigned char *)buffer + done;
}

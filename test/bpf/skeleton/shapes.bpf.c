// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * One struct per way in which C lays out data. For each: fill_NAME writes it into slot 0 of its
 * map, over bytes of ones; check_NAME compares slot 1, byte by byte, with what it would write over
 * zeros, so that padding counts too.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define CASE(NAME)                                                                        \
	struct {                                                                          \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                         \
		__uint(max_entries, 2);                                                   \
		__type(key, __u32);                                                       \
		__type(value, struct NAME);                                               \
	} map_##NAME SEC(".maps");                                                        \
	static __always_inline void set_##NAME(struct NAME *v);                           \
	SEC("tc") int fill_##NAME(struct __sk_buff *skb)                                  \
	{                                                                                 \
		__u32 slot = 0;                                                           \
		struct NAME *v = bpf_map_lookup_elem(&map_##NAME, &slot);                 \
		if (!v)                                                                   \
			return -1;                                                        \
		__builtin_memset(v, 0xff, sizeof(*v));                                    \
		set_##NAME(v);                                                            \
		return 0;                                                                 \
	}                                                                                 \
	/* 0: equal; else 1 + offset of the first byte that differs */                    \
	SEC("tc") int check_##NAME(struct __sk_buff *skb)                                 \
	{                                                                                 \
		__u32 slot = 1;                                                           \
		struct NAME expected;                                                     \
		struct NAME *v = bpf_map_lookup_elem(&map_##NAME, &slot);                 \
		if (!v)                                                                   \
			return -1;                                                        \
		__builtin_memset(&expected, 0, sizeof(expected));                         \
		set_##NAME(&expected);                                                    \
		for (__u32 i = 0; i < sizeof(expected); i++)                              \
			if (((volatile __u8 *)v)[i] != ((volatile __u8 *)&expected)[i])   \
				return 1 + i;                                             \
		return 0;                                                                 \
	}                                                                                 \
	static __always_inline void set_##NAME(struct NAME *v)

struct integers {
	__u8 u8;
	__s8 s8;
	__u16 u16;
	__s16 s16;
	__u32 u32;
	__s32 s32;
	__u64 u64;
	__s64 s64;
	unsigned __int128 u128;
	__int128 s128;
};

CASE(integers)
{
	v->u8 = 200;
	v->s8 = -100;
	v->u16 = 60000;
	v->s16 = -30000;
	v->u32 = 4000000000u;
	v->s32 = -2000000000;
	v->u64 = 0xfedcba9876543210ull;
	v->s64 = -81985529216486896ll;
	v->u128 = ((unsigned __int128)0xfedcba9876543210ull << 64) | 0x0123456789abcdefull;
	v->s128 = -(__int128)0x0123456789abcdefull;
}

enum color { COLOR_NONE, COLOR_RED = 7, COLOR_LAST = -2 };
enum big { BIG_SMALL = 1, BIG_HUGE = 0x8000000000000001ull };
enum __attribute__((packed)) tiny { TINY_A = 3, TINY_B = 250 };
enum no_zero { NO_ZERO_ONE = 1 };

struct choices {
	bool yes;
	bool no;
	enum tiny tiny;
	enum color color;
	enum big big;
	enum no_zero no_zero[3];
	bool row[3];
};

CASE(choices)
{
	v->yes = true;
	v->no = false;
	v->tiny = TINY_B;
	v->color = COLOR_LAST;
	v->big = BIG_HUGE;
	v->no_zero[0] = v->no_zero[1] = v->no_zero[2] = NO_ZERO_ONE;
	v->row[0] = v->row[2] = true;
	v->row[1] = false;
}

struct texts {
	char name[16];
	char full[4];
	char rows[2][8];
	char empty[3];
	__u8 raw[5];
	signed char steps[3];
};

CASE(texts)
{
	__builtin_memcpy(v->name, "caf\xc3\xa9\0\0\0\0\0\0\0\0\0\0", 16);
	__builtin_memcpy(v->full, "full", 4);
	__builtin_memcpy(v->rows[0], "one\0\0\0\0", 8);
	__builtin_memcpy(v->rows[1], "two\xff\0\0\0", 8);
	v->empty[0] = v->empty[1] = v->empty[2] = 0;
	__builtin_memcpy(v->raw, "\0\x01\x02\xfe\xff", 5);
	v->steps[0] = -1;
	v->steps[1] = 0;
	v->steps[2] = 1;
}

struct bitfields {
	__u32 a : 3;
	__u32 b : 1;
	__s32 c : 5;
	__u32 d : 23;
	__u64 wide : 40;
	__s64 deep : 20;
	bool flag : 1;
	enum color color : 4;
	__u8 : 0;
	__u8 last : 2;
};

CASE(bitfields)
{
	v->a = 5;
	v->b = 1;
	v->c = -11;
	v->d = 0x654321;
	v->wide = 0xfedcba9876ull;
	v->deep = -123456;
	v->flag = true;
	v->color = COLOR_RED;
	v->last = 2;
}

struct point {
	__s16 x;
	__s16 y;
};

struct __attribute__((packed)) squeezed {
	__u8 kind;
	__u32 length;
	__u64 stamp;
	struct point at;
	__u16 port;
	__u32 low : 7;
	__u32 middle : 13;
	__u32 high : 17;
	__u64 across : 61;
	__u8 rest : 6;
};

CASE(squeezed)
{
	v->kind = 1;
	v->length = 0x01020304;
	v->stamp = 0x1112131415161718ull;
	v->at.x = -5;
	v->at.y = 6;
	v->port = 8080;
	v->low = 0x55;
	v->middle = 0x1234;
	v->high = 0x1abcd;
	v->across = 0x1234567890abcdefull;
	v->rest = 0x2a;
}

struct spread {
	__u8 first;
	__u64 second;
	__u8 third __attribute__((aligned(32)));
	struct {
		__u8 fourth;
		__u32 fifth;
	};
	struct point point;
};

CASE(spread)
{
	v->first = 1;
	v->second = 2;
	v->third = 3;
	v->fourth = 4;
	v->fifth = 5;
	v->point.x = 6;
	v->point.y = -7;
}

typedef struct {
	__u32 id;
	struct {
		__u16 left;
		__u16 right;
	} sides;
} nameless_t;
typedef const volatile nameless_t alias_t;

struct nests {
	alias_t one;
	struct point line[2];
	struct {
		__u8 depth;
		struct {
			__u64 value;
		} inner;
	} outer[2];
	__u32 grid[2][3];
	struct point cube[1][2][2];
	__s64 longs[2];
	__u16 shorts[3];
	void *pointers[2];
	unsigned __int128 huge[1];
	struct {
	} nothing;
};

CASE(nests)
{
	*(volatile __u32 *)&v->one.id = 9;
	*(volatile __u16 *)&v->one.sides.left = 10;
	*(volatile __u16 *)&v->one.sides.right = 11;
	v->line[0].x = 1;
	v->line[0].y = 2;
	v->line[1].x = 3;
	v->line[1].y = 4;
	v->outer[0].depth = 1;
	v->outer[0].inner.value = 100;
	v->outer[1].depth = 2;
	v->outer[1].inner.value = 200;
	for (int i = 0; i < 2; i++)
		for (int j = 0; j < 3; j++)
			v->grid[i][j] = 10 * i + j;
	for (int i = 0; i < 2; i++)
		for (int j = 0; j < 2; j++) {
			v->cube[0][i][j].x = i;
			v->cube[0][i][j].y = -j;
		}
	v->longs[0] = -1;
	v->longs[1] = 1;
	v->shorts[0] = 1;
	v->shorts[1] = 2;
	v->shorts[2] = 65535;
	v->pointers[0] = (void *)0xffff888000001000ull;
	v->pointers[1] = 0;
	v->huge[0] = (unsigned __int128)1 << 100;
}

union address {
	__u32 v4;
	__u8 v6[16];
	__u32 words[4];
};

struct unions {
	__u16 family;
	union address address;
	union {
		__u64 both;
		struct {
			__u32 low;
			__u32 high;
		};
		struct point point;
	};
	union {
		__u8 byte;
		struct {
			__u8 nibble : 4;
			__u8 other : 4;
		};
	};
	__u8 end;
};

CASE(unions)
{
	v->family = 10;
	for (int i = 0; i < 4; i++)
		v->address.words[i] = 0x01010101 * (i + 1);
	v->low = 0x11223344;
	v->high = 0x55667788;
	v->nibble = 0x5;
	v->other = 0xa;
	v->end = 99;
}

struct never_defined;

struct pointers {
	void *anything;
	const struct never_defined *unknown;
	int (*call)(struct never_defined *, long);
	struct pointers *self;
};

CASE(pointers)
{
	v->anything = (void *)1;
	v->unknown = (void *)0xffffffffffffffffull;
	v->call = (void *)3;
	v->self = (void *)4;
}

struct floats {
	float single;
	double both[2];
	double twice;
};

CASE(floats)
{
	/* BPF has no floating point: the bits of 1.5, -2.25, 0.1 and 1e300. */
	*(volatile __u32 *)&v->single = 0x3fc00000;
	*(volatile __u64 *)&v->both[0] = 0xc002000000000000ull;
	*(volatile __u64 *)&v->both[1] = 0x3fb999999999999aull;
	*(volatile __u64 *)&v->twice = 0x7e37e43c8800759cull;
}

/* Names that mean something to JavaScript, or to the generated code. */
struct function {
	__u32 constructor;
	__u32 __proto__;
	__u32 prototype;
	__u32 new;
	__u32 size;
	__u32 read;
	__u32 value;
	__u32 offset;
	__u32 into;
	__u32 toString;
	__u32 $dollar;
	union {
		__u32 get;
		__u32 delete;
	};
};

CASE(function)
{
	v->constructor = 1;
	v->__proto__ = 2;
	v->prototype = 3;
	v->new = 4;
	v->size = 5;
	v->read = 6;
	v->value = 7;
	v->offset = 8;
	v->into = 9;
	v->toString = 10;
	v->$dollar = 11;
	v->delete = 12;
}

/* The names of built-in types are taken. */
struct map {
	struct uint8array {
		__u8 one;
	} array;
	struct string {
		__u8 two;
	} text;
};

CASE(map)
{
	v->array.one = 1;
	v->text.two = 2;
}

/* Types that no value has, but a pointer makes known. */
struct record {
	__u32 length;
	enum color color;
	__u8 data[];
};
const struct record *unused_record __attribute__((unused));

enum verdict { VERDICT_PASS, VERDICT_DROP };
const enum verdict *unused_verdict __attribute__((unused));

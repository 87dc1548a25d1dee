/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Eight bytes at a time: what the parsers know about characters, without loops.
 *
 * A mask has the top bit set in each byte that is meant.  None of these carries
 * from one byte into the next, so every byte of a mask is exact.  All constants
 * are little endian, as are the machines this runs on.
 */
#ifndef COLOPP_SERVICES_WORDS_H
#define COLOPP_SERVICES_WORDS_H

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are compared as little endian");

#define EACH(byte) (0x0101010101010101ULL * (byte))
#define TOPS EACH(0x80)

/* Bytes i..i+7 of a string literal as load_word() would see them, zeros after its end; a constant. */
#define WORD_BYTE(s, i) ((__u64)((i) < sizeof(s) - 1 ? (__u8)(s)[(i) < sizeof(s) - 1 ? (i) : 0] : 0) << 8 * ((i) & 7))
#define WORD_AT(s, i)                                                                              \
	(WORD_BYTE(s, i) | WORD_BYTE(s, (i) + 1) | WORD_BYTE(s, (i) + 2) | WORD_BYTE(s, (i) + 3) | \
	 WORD_BYTE(s, (i) + 4) | WORD_BYTE(s, (i) + 5) | WORD_BYTE(s, (i) + 6) | WORD_BYTE(s, (i) + 7))
#define WORD(s) WORD_AT(s, 0)

/* Not aligned: BPF allows it where the machine does. */
static __always_inline __u64 load_word(const __u8 *bytes)
{
	return *(const __u64 *)bytes;
}

/* The first `count` (0..8) bytes of a word, zeros after them. */
static __always_inline __u64 first_bytes(__u64 word, __u32 count)
{
	return count >= 8 ? word : word & ((1ULL << 8 * count) - 1);
}

/* How many bytes precede the first one in a mask: 0..8. */
static __always_inline __u32 bytes_before(__u64 mask)
{
	__u64 below = (mask & -mask) - 1; /* all ones if the mask is empty */

	return (((below >> 7) & EACH(1)) * EACH(1)) >> 56 & 15;
}

/* How many of the 32 bytes at `bytes` precede the first one in `mask_of` its word: 0..32. */
#define FIRST_OF_32(bytes, mask_of)                                                    \
	({                                                                             \
		__u32 before_ = bytes_before(mask_of(load_word(bytes)));               \
		if (before_ == 8)                                                      \
			before_ += bytes_before(mask_of(load_word((bytes) + 8)));      \
		if (before_ == 16)                                                     \
			before_ += bytes_before(mask_of(load_word((bytes) + 16)));     \
		if (before_ == 24)                                                     \
			before_ += bytes_before(mask_of(load_word((bytes) + 24)));     \
		before_;                                                               \
	})

/* Bytes in lowest..highest, both below 0x80. */
static __always_inline __u64 in_range(__u64 word, __u8 lowest, __u8 highest)
{
	__u64 low7 = word & ~TOPS;

	return (low7 + EACH(0x80 - lowest)) & ~(low7 + EACH(0x7f - highest)) & ~word & TOPS;
}

static __always_inline __u64 equal_to(__u64 word, __u8 byte)
{
	word ^= EACH(byte);
	return ~(((word & ~TOPS) + ~TOPS) | word) & TOPS;
}

/* Control characters, and every other byte up to `highest`; 0x7f too. */
static __always_inline __u64 up_to(__u64 word, __u8 highest)
{
	return in_range(word, 0, highest) | equal_to(word, 0x7f);
}

/* ASCII capitals become small; nothing else changes. */
static __always_inline __u64 lower_case(__u64 word)
{
	return word | in_range(word, 'A', 'Z') >> 2;
}

/* The number in the first `count` (1..8) bytes, which are digits. */
static __always_inline __u32 decimal(__u64 word, __u32 count)
{
	word = (word & EACH(0x0f)) << (64 - 8 * count);
	word = word * 10 + (word >> 8);
	return ((word & 0x000000ff000000ffULL) * (100 + (1000000ULL << 32)) +
		(word >> 16 & 0x000000ff000000ffULL) * (1 + (10000ULL << 32))) >> 32;
}

#endif

// SPDX-License-Identifier: MIT OR GPL-2.0
/* Global variables of every kind and section, and programs that read and write them. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

enum mode { MODE_OFF, MODE_ON };

struct limits {
	__u32 low;
	__u64 high;
};

/* .rodata: set before load */
const volatile __u32 factor = 3;
const volatile bool enabled = false;
const volatile char tag[8] = "abc";
const volatile struct limits limits = { 1, 2 };
const volatile enum mode first_mode = MODE_ON;

/* .data */
__u64 total = 1000;
__s32 negative = -5;
struct limits moving = { 10, 20 };
enum mode mode = MODE_ON;
__u8 odd = 7;
__u16 list[3] = { 1, 2, 3 };

/* .bss */
__u64 calls;
struct limits seen[2];
__s64 sums[4];

/* sections of its own, some with odd alignment */
int custom SEC(".data.custom") = 42;
char big_aligned SEC(".data.custom") __attribute__((aligned(64))) = 9;
const volatile int fixed SEC(".rodata.fixed") = 5;
__u64 apart SEC(".bss.apart");

/* not to be seen: static, hidden */
static volatile __u64 hidden_static = 3;
__attribute__((visibility("hidden"))) __u64 hidden_global = 4;
static volatile const int rodata_static = 11;

/* a section whose name is longer than the kernel's names of maps */
__attribute__((visibility("hidden"))) __u64 quiet SEC(".bss.a_rather_long_name");

/* to be seen: weak */
__attribute__((weak)) __u32 weak_global = 12;

/* the kernel's configuration, and a symbol that is none */
extern int LINUX_KERNEL_VERSION __kconfig;
extern bool CONFIG_BPF_SYSCALL __kconfig __weak;
extern enum libbpf_tristate CONFIG_NO_SUCH_OPTION __kconfig __weak;
extern char CONFIG_DEFAULT_HOSTNAME[16] __kconfig __weak;
extern const void init_task __ksym __weak;

/* two functions with a static variable of the same name: counter, counter.1 */
static __noinline __u64 one(void)
{
	static volatile __u64 counter = 100;

	return ++counter;
}

static __noinline __u64 two(void)
{
	static volatile __u64 counter = 200;

	return ++counter;
}

SEC("tc") int step(struct __sk_buff *skb)
{
	calls++;
	total += factor;
	seen[1] = moving;
	moving.high += limits.high;
	sums[2] = negative;
	list[1] += odd;
	custom++;
	apart += fixed + big_aligned;
	if (enabled)
		mode = first_mode;
	hidden_global += hidden_static + rodata_static;
	weak_global += tag[0];
	return one() + two() + hidden_global + quiet == 0;
}

/* stored in one piece: a reader must never see half of each */
__u64 flipping;

SEC("tc") int flip(struct __sk_buff *skb)
{
	flipping = ~flipping;
	return LINUX_KERNEL_VERSION > 0 && CONFIG_BPF_SYSCALL && &init_task != (void *)1 && CONFIG_NO_SUCH_OPTION == TRI_NO &&
	       CONFIG_DEFAULT_HOSTNAME[0] != 1;
}

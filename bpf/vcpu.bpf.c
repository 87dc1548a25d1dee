/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * What the threads of one VM's vCPUs do: run, wait for a CPU, sleep.
 *
 * These programs see every context switch of the host, and being called at all
 * is most of what that costs. So there is no program for wake-ups, which are as
 * frequent: the scheduler notes itself since when a task waits (sched_info). And
 * what does not concern the VM costs two comparisons: how long other tasks wait
 * is asked of them when somebody wants to know.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "vcpu.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define NOBODY 0xffffffffu

/* The VM's process, or NOBODY. */
__u32 traced_process = NOBODY;

/*
 * How long any vCPU has run, not counting `vcpus_busy_since_ns` on if some run now.
 * Two CPUs may race here; what that costs is the length of the race.
 */
__s64 vcpus_running;
__u64 vcpus_busy_ns;
__u64 vcpus_busy_since_ns;

/* How long all tasks but the VM's have ever waited for a CPU, as sum_others found it; and those of them that have ended. */
__u64 others_waited_ns;
__u64 ended_waited_ns;

/* vCPU by thread id. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, VCPU_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} vcpu_of SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, VCPU_SLOTS);
	__type(key, __u32);
	__type(value, struct vcpu_now);
} vcpu_now SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VCPU_SLOTS);
	__type(key, __u32);
	__type(value, struct vcpu_counts);
} vcpu_counts SEC(".maps");

struct vcpu {
	struct vcpu_now *now;
	struct vcpu_counts *counts;
};

static __always_inline bool find(struct task_struct *task, struct vcpu *vcpu)
{
	__u32 tid = task->pid, *slot = bpf_map_lookup_elem(&vcpu_of, &tid);

	if (!slot)
		return false;
	vcpu->now = bpf_map_lookup_elem(&vcpu_now, slot);
	vcpu->counts = bpf_map_lookup_elem(&vcpu_counts, slot);
	return vcpu->now && vcpu->counts;
}

static __always_inline bool is_traced(struct task_struct *task)
{
	return (__u32)task->tgid == traced_process;
}

static __always_inline __u32 span_slot(__u64 ns)
{
	__u64 us = ns / 1000;
	__u32 slot = 0;

	if (us >= 1 << 16) { slot += 16; us >>= 16; }
	if (us >= 1 << 8) { slot += 8; us >>= 8; }
	if (us >= 1 << 4) { slot += 4; us >>= 4; }
	if (us >= 1 << 2) { slot += 2; us >>= 2; }
	if (us >= 1 << 1)
		slot++;
	return slot < VCPU_SPANS ? slot : VCPU_SPANS - 1;
}

static __always_inline __u64 vcpus_ran_ns(__u64 now_ns)
{
	__u64 since_ns = vcpus_busy_since_ns;

	return vcpus_busy_ns + (vcpus_running > 0 && since_ns < now_ns ? now_ns - since_ns : 0);
}

static __always_inline __u64 queue_clock_ns(struct task_struct *task)
{
	return task->se.cfs_rq->rq->clock;
}

/* The clock of a task's queue is not to be had without group scheduling, nor its waits without delay accounting. */
static __always_inline bool has_delays(struct task_struct *task)
{
	return bpf_core_field_exists(task->se.cfs_rq) && bpf_core_field_exists(task->sched_info.last_queued);
}

/* How long `task`, which is about to run, has ever waited. */
static __always_inline __u64 delay_ns(struct task_struct *task)
{
	__u64 queued_ns = task->sched_info.last_queued, now_ns = queue_clock_ns(task);

	return task->sched_info.run_delay + (queued_ns && queued_ns < now_ns ? now_ns - queued_ns : 0);
}

static __always_inline void changes(struct vcpu_now *now, enum vcpu_activity activity, __u64 now_ns)
{
	now->activity = activity;
	now->since_ns = now_ns;
	now->changes++;
}

static __always_inline void begins_to_run(struct vcpu *vcpu, struct task_struct *task)
{
	struct vcpu_counts *counts = vcpu->counts;
	struct vcpu_now *now = vcpu->now;
	__u64 now_ns = bpf_ktime_get_ns(), span_ns = now_ns - now->since_ns;
	bool preempted = now->activity == VCPU_WAITS;
	__u32 cpu = bpf_get_smp_processor_id();
	__u64 wait_ns = preempted ? span_ns : 0;

	if (preempted || now->activity == VCPU_SLEEPS) {
		if (!preempted && has_delays(task)) {
			wait_ns = delay_ns(task) - now->delay_ns;
			if (wait_ns > span_ns)
				wait_ns = span_ns;
		}
		counts->wait_ns += wait_ns;
		counts->sleep_ns += span_ns - wait_ns;
		counts->waits[span_slot(wait_ns)]++;
	}
	if (preempted) {
		__u64 ran_ns = vcpus_ran_ns(now_ns) - now->siblings_ns;

		/* Less than nothing where two CPUs have raced. */
		if (ran_ns <= span_ns)
			counts->preempted_beside_sibling_ns += ran_ns;
	}
	if (__sync_fetch_and_add(&vcpus_running, 1) == 0)
		vcpus_busy_since_ns = now_ns;
	if (now->cpu != cpu)
		counts->migrations++;
	now->cpu = cpu;
	changes(now, VCPU_RUNS, now_ns);
}

static __always_inline void ceases_to_run(struct vcpu *vcpu, struct task_struct *task, enum vcpu_activity activity)
{
	struct vcpu_counts *counts = vcpu->counts;
	struct vcpu_now *now = vcpu->now;
	__u64 now_ns = bpf_ktime_get_ns(), span_ns = now_ns - now->since_ns;

	if (now->activity == VCPU_RUNS) {
		counts->run_ns += span_ns;
		counts->runs[span_slot(span_ns)]++;
		if (__sync_fetch_and_add(&vcpus_running, -1) == 1 && vcpus_busy_since_ns < now_ns)
			vcpus_busy_ns += now_ns - vcpus_busy_since_ns;
	}
	if (has_delays(task))
		now->delay_ns = task->sched_info.run_delay;
	now->siblings_ns = vcpus_ran_ns(now_ns);
	changes(now, activity, now_ns);
}

SEC("tp_btf/sched_switch")
int BPF_PROG(on_switch, bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state)
{
	struct vcpu vcpu;

	if (is_traced(prev) && find(prev, &vcpu)) {
		bool preempted = preempt || prev_state == 0;

		if (preempted)
			vcpu.counts->involuntary++;
		else
			vcpu.counts->voluntary++;
		ceases_to_run(&vcpu, prev, preempted ? VCPU_WAITS : VCPU_SLEEPS);
	}
	if (is_traced(next) && find(next, &vcpu))
		begins_to_run(&vcpu, next);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	struct vcpu vcpu;
	__u32 tid = task->pid;

	if (!is_traced(task)) {
		if (has_delays(task))
			__sync_fetch_and_add(&ended_waited_ns, task->sched_info.run_delay);
		return 0;
	}
	if (!find(task, &vcpu))
		return 0;
	ceases_to_run(&vcpu, task, VCPU_GONE);
	bpf_map_delete_elem(&vcpu_of, &tid);
	return 0;
}

#define PF_EXITING 0x4 /* its end is seen above, or has been */

/* Runs over all tasks when it is read. */
SEC("iter/task")
int sum_others(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task; /* none after the last */

	if (ctx->meta->seq_num == 0)
		others_waited_ns = ended_waited_ns;
	if (task && !is_traced(task) && !(task->flags & PF_EXITING) && has_delays(task))
		others_waited_ns += task->sched_info.run_delay;
	return 0;
}

/* The record of the tracepoint kvm:kvm_exit; whoever attaches checks these offsets. */
struct kvm_exit_record {
	__u64 common;
	__u32 exit_reason;
	__u32 padding;
	__u64 guest_rip;
	__u32 isa; /* 1 VMX, 2 SVM */
};

static __always_inline __u32 exit_kind(__u32 isa, __u32 reason)
{
	if (isa == 1) {
		switch (reason & 0xffff) {
		case 1: return EXIT_INTERRUPT;
		case 12: return EXIT_HALT;
		case 30: return EXIT_IO;
		case 40: return EXIT_PAUSE;
		case 48:
		case 49: return EXIT_MEMORY;
		}
	} else {
		switch (reason) {
		case 0x60: return EXIT_INTERRUPT;
		case 0x77: return EXIT_PAUSE;
		case 0x78: return EXIT_HALT;
		case 0x7b: return EXIT_IO;
		case 0x400: return EXIT_MEMORY;
		}
	}
	return EXIT_OTHER;
}

SEC("?tracepoint/kvm/kvm_exit")
int on_kvm_exit(struct kvm_exit_record *record)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 kind = exit_kind(record->isa, record->exit_reason);
	struct vcpu vcpu;

	if (is_traced(task) && find(task, &vcpu) && kind < VCPU_EXITS)
		vcpu.counts->exits[kind]++;
	return 0;
}

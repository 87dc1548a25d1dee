/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What vcpu.bpf.c counts. TypeScript gets these records from BTF. */
#ifndef COLOPP_VCPU_H
#define COLOPP_VCPU_H

/* The most vCPUs of one VM. */
#define VCPU_SLOTS 64
/* Slot n of a histogram counts spans of 2^n to 2^(n+1) microseconds, the first one also shorter, the last one also longer. */
#define VCPU_SPANS 24

enum vcpu_activity {
	VCPU_UNSEEN = 0, /* since it is traced */
	VCPU_SLEEPS,	 /* or has been woken and waits: that shows when it runs */
	VCPU_WAITS,	 /* was preempted */
	VCPU_RUNS,
	VCPU_GONE, /* the thread has ended */
};

/* Why a vCPU left guest mode, where KVM runs. */
enum vcpu_exit {
	EXIT_HALT = 0,
	EXIT_PAUSE,
	EXIT_IO,
	EXIT_MEMORY, /* a page that is not there, or a device's memory */
	EXIT_INTERRUPT,
	EXIT_OTHER,
	VCPU_EXITS,
};

/* What a vCPU's thread does at this moment. Its switches are serialised by the scheduler's locks. */
struct vcpu_now {
	__u64 since_ns;		     /* CLOCK_MONOTONIC */
	__u64 delay_ns;		     /* when it last stopped running: all it had ever waited */
	__u64 siblings_ns;	     /* and how long any vCPU had run */
	enum vcpu_activity activity;
	__u32 cpu;		     /* where it last ran */
	__u32 changes;		     /* rises with each change */
	__u32 reserved;
};

/* What a vCPU has done, on one CPU; spans count where they ended. */
struct vcpu_counts {
	__u64 run_ns;
	__u64 wait_ns;
	__u64 sleep_ns;
	__u64 preempted_beside_sibling_ns; /* of wait_ns: it was preempted, and another vCPU ran and may have spun for it */
	__u64 voluntary;   /* switches: went to sleep */
	__u64 involuntary; /* switches: was preempted */
	__u64 migrations;  /* it ran on another CPU than before */
	__u64 exits[VCPU_EXITS];
	__u64 waits[VCPU_SPANS];
	__u64 runs[VCPU_SPANS];
};

#endif

// Giving the logged input to a guest that was set back to its last checkpoint:
// as it comes, while the secondary is active, and what is left of it after a
// takeover.  Pure: the clock and the guest are the caller's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "log_frame.h"
#include "queue.h"
#include "wire.h"

namespace taphold {

struct ReplayLimits {
  uint64_t total_ns;    // without any progress; then what is left goes in at once
  uint64_t retry_ns;    // without progress, a flow's segments go in again after this
  uint64_t barrier_ns;  // how long a write waits for replies that may never come
  uint32_t tries;       // then the flow is given up
};

struct ReplayStats {
  uint64_t logged_frames = 0;  // that had not gone in when it began
  uint64_t live_frames = 0;  // that clients sent meanwhile
  uint64_t flows = 0;
  uint64_t repeated_frames = 0;
  uint64_t known_frames = 0;      // not given in, or not any more: the guest had them already
  uint64_t abandoned_frames = 0;  // of flows that were given up
  uint64_t flushed_frames = 0;    // that went in unpaced when the time was over
  uint64_t duration_ns = 0;
};

// Where frames go, and what is known of their flows.
class ReplayTarget {
 public:
  virtual ~ReplayTarget() = default;
  virtual void Inject(Record* record) = 0;
  // False if there is no such flow.
  virtual bool Look(const shadow_key& key, shadow_flow* flow) = 0;
};

// The order of things: within a flow, that of the log. A client's SYN waits for
// the guest's SYN-ACK, because only then the client's next segment makes sense;
// what follows goes in as far as the guest acknowledges it, and again if it does
// not. Flows do not wait for each other, with one exception: the first writes to
// a service (a port of the guest) wait until the guest has replied to all requests
// to it before them, so that those are answered from the state the primary
// answered them from. It has replied when it has sent as much as the client has
// acknowledged to the primary, and as many replies as there were requests. Nobody
// has seen a reply of that service from after its first write, so from there on
// order is free. What may hide a request to any service counts as a write to all.
//
// An active secondary gets its input in the same way, but without an end: what
// does not come to pass is not forced, as the next checkpoint makes up for it,
// and is left for a takeover, which does force it.
class Replayer {
 public:
  Replayer(ReplayTarget* target, ReplayLimits limits) : target_(target), limits_(limits) {}

  // `log`: the records to replay, in any order; they stay where they are until
  // done. Those up to number `committed` the guest has probably read before its
  // checkpoint.  `active`: more of the log will follow, until Finish().
  void Begin(std::vector<Record*> log, uint64_t committed, bool active, uint64_t now_ns);
  // The next input of an active secondary.  The record stays where it is.
  void Extend(Record* record, uint64_t now_ns);
  // A takeover: nothing more will be logged, and from now on time is short.
  void Finish(ReplayLimits limits, uint64_t now_ns);
  // A frame from a live client: after all that its flow has in the log, and if it
  // may be a write, after the replies to all earlier requests.  True if the record
  // must stay where it is until done.
  bool Append(Record* record);
  // Does what can be done now. True if nothing is left.
  bool Step(uint64_t now_ns);
  // True if nothing is on its way whose fate would have to be looked at.
  bool quiet() const { return busy_.empty() && closed_.empty(); }

  const ReplayStats& stats() const { return stats_; }

 private:
  struct Flow;

  struct Service {
    uint64_t first_write = UINT64_MAX;  // its number; of those beyond `committed_`
    bool open = false;                  // its writes may go
    uint64_t moved_ns = 0;              // when they began to wait, or the log of its flows last got on
    std::vector<Flow*> flows;
    std::vector<Flow*> asking;  // those that may still owe a reply before the first write
  };

  struct Item {
    Record* record;
    uint32_t end;  // sequence number behind it
    uint32_t ack;
    uint8_t flags;  // of TCP
    bool countable;  // it takes up sequence numbers, so the guest acknowledges it
    bool may_ask;
    bool live;
    bool write;
    bool sent = false;   // at least once, or it need not be
    bool asked = false;  // counted among its flow's `asks`
    bool opens() const { return (flags & (kTcpSyn | kTcpAck)) == kTcpSyn; }
  };

  struct Flow {
    shadow_key key{};
    Service* service = nullptr;  // that it is for, if that is known
    std::vector<Item*> items;
    size_t done = 0;   // items before are over
    size_t next = 0;   // items from `done` up to here are on their way
    size_t fresh = 0;  // items from here on were never sent in earnest
    bool tracked = true;   // it is plain TCP, and the BPF programs know it
    bool spoken = false;   // the guest has said something, so its numbers are known
    bool busy = false;     // among busy_
    bool has_ack = false;
    uint32_t client_ack = 0;  // how much the client has of what the primary sent
    bool has_early_ack = false;
    uint32_t early_ack = 0;  // and how much it said to have until the first write came
    Item* owed = nullptr;     // went in acknowledging more than the guest had sent, so it knows less than it may
    bool reach_known = false;
    uint32_t reach = 0;       // how much that was, as the client counts
    uint32_t asks = 0;        // packets that may be requests, sent before the first write
    uint32_t replies = 0;     // that the guest had sent when the first of them was
    uint32_t tries = 0;
    uint64_t asked_ns = 0;
    uint64_t sent_ns = 0;
    uint64_t progress_ns = 0;
    bool idle() const { return done == items.size(); }
  };

  struct KeyHash {
    size_t operator()(const shadow_key& key) const;
  };
  struct KeyEqual {
    bool operator()(const shadow_key& a, const shadow_key& b) const;
  };

  uint64_t Awake(uint64_t now_ns);
  void DropHarmful(std::vector<Record*>* log);
  void AddLogged(Record* record, uint64_t now_ns);
  static shadow_key KeyOf(const Frame& frame);
  Flow* FlowOf(const Frame& frame);
  void Close(Service* service, uint64_t now_ns);
  bool IsOpen(const Service* service) const { return service ? service->open : closed_.empty(); }
  bool IsOpen(const Frame& frame) const;
  uint64_t FirstWrite(const Service* service) const;
  void Add(Record* record, const Frame& frame, Flow* flow);
  void Progress(Flow* flow, uint64_t now_ns);
  bool IsOver(const Flow& flow, const Item& item, const shadow_flow& seen) const;
  bool MaySend(const Flow& flow, const Item& item) const;
  void PayAck(Flow* flow, const shadow_flow& seen);
  void Send(Flow* flow, Item* item, const shadow_flow& seen, uint64_t now_ns);
  void Abandon(Flow* flow);
  bool OpenServices(uint64_t now_ns);
  bool RepliesAreOut(Service* service, uint64_t now_ns) const;
  bool RepliesAreOut(const Flow& flow, uint64_t now_ns) const;
  bool NothingUnsent(const Flow& flow) const;
  void Flush();

  ReplayTarget* const target_;
  ReplayLimits limits_;
  ReplayStats stats_;
  bool active_ = false;
  uint64_t seen_ns_ = 0;   // the newest time that was told
  uint64_t awake_ns_ = 0;  // as all others below: without the time in which nothing was told
  uint64_t begun_ns_ = 0;
  uint64_t moved_ns_ = 0;  // when something of the log was last done with
  uint64_t committed_ = 0;
  uint64_t first_opaque_ = UINT64_MAX;  // as Service::first_write, of what may be for any
  std::deque<Item> items_;  // in the order in which they go in if there is nothing to wait for
  // What is not plain TCP is one flow for each service, and one for all else.
  std::unordered_map<shadow_key, std::unique_ptr<Flow>, KeyHash, KeyEqual> flows_;
  std::vector<Flow*> busy_;  // those with something to send or to look at
  std::unordered_map<uint32_t, std::unique_ptr<Service>> services_;
  std::vector<Service*> closed_;
};

}  // namespace taphold

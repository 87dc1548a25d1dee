// The Node API over the hold thread.
#include "binding.h"

#include <unistd.h>

#include <cstring>
#include <memory>

#include "compare_report.h"
#include "tap.h"
#include "worker.h"

namespace taphold {

Napi::Error MakeError(Napi::Env env, const SysError& failed) {
  Napi::Error error = Napi::Error::New(
      env, std::string(failed.operation) + " failed: " + std::strerror(failed.error));
  error.Set("operation", Napi::String::New(env, failed.operation));
  error.Set("errno", Napi::Number::New(env, failed.error));
  return error;
}

namespace {

// Reports that JavaScript has not yet seen.
constexpr size_t kMaxReports = 16;

Napi::Array Numbers(Napi::Env env, const uint64_t* values, size_t count) {
  Napi::Array out = Napi::Array::New(env, count);
  for (uint32_t i = 0; i < count; i++) out.Set(i, Napi::Number::New(env, static_cast<double>(values[i])));
  return out;
}

class TapHold : public Napi::ObjectWrap<TapHold> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "TapHold",
                       {
                           InstanceMethod<&TapHold::SetWatermark>("setWatermark"),
                           InstanceMethod<&TapHold::Commit>("commit"),
                           InstanceMethod<&TapHold::SuspendCompare>("suspendCompare"),
                           InstanceMethod<&TapHold::SetCompare>("setCompare"),
                           InstanceMethod<&TapHold::SetGathering>("setGathering"),
                           InstanceMethod<&TapHold::Discard>("discard"),
                           InstanceMethod<&TapHold::Share>("share"),
                           InstanceMethod<&TapHold::Stats>("stats"),
                           InstanceMethod<&TapHold::Close>("close"),
                           InstanceAccessor<&TapHold::IfIndex>("ifIndex"),
                           InstanceAccessor<&TapHold::ShadowIfIndex>("shadowIfIndex"),
                       });
  }

  // (name, queuePackets, ringBytes, limitPackets, limitBytes, notify, shadowName,
  // maxFlows, shadowRingBytes, found); the TypeScript side has checked them.
  // shadowName is empty if nothing is to be compared.
  explicit TapHold(const Napi::CallbackInfo& info) : Napi::ObjectWrap<TapHold>(info) {
    Napi::Env env = info.Env();
    auto number = [&](size_t i) { return info[i].As<Napi::Number>().Int64Value(); };
    const std::string shadow_name = info[6].As<Napi::String>();
    const auto queue_packets = static_cast<unsigned>(number(1));
    int fd = -1, shadow_fd = -1;
    SysError failed = OpenTap(info[0].As<Napi::String>(), queue_packets, &fd, &ifindex_);
    if (!failed && !shadow_name.empty()) {
      failed = OpenTap(shadow_name, queue_packets, &shadow_fd, &shadow_ifindex_);
      if (failed) close(fd);
    }
    if (failed) {
      MakeError(env, failed).ThrowAsJavaScriptException();
      return;
    }
    notify_ = Napi::ThreadSafeFunction::New(env, info[5].As<Napi::Function>(), "tap-hold", 0, 1);
    notify_.Unref(env);
    found_ = Napi::ThreadSafeFunction::New(env, info[9].As<Napi::Function>(), "tap-hold", kMaxReports, 1);
    found_.Unref(env);
    Limits limits{static_cast<size_t>(number(3)), static_cast<size_t>(number(4))};
    Napi::ThreadSafeFunction notify = notify_, found = found_;
    auto on_notice = [notify](Notice notice, uint64_t oldest_ns) {
      notify.NonBlockingCall([notice, oldest_ns](Napi::Env env, Napi::Function call) {
        call.Call({Napi::Number::New(env, static_cast<int>(notice)),
                   Napi::BigInt::New(env, oldest_ns)});
      });
    };
    // Nobody listens if there is no room: then what is found is only counted.
    auto on_found = [found](std::vector<CompareEvent> events) {
      found.NonBlockingCall([events = std::move(events)](Napi::Env env, Napi::Function call) {
        call.Call({ReportEvents(env, events)});
      });
    };
    worker_ = std::make_unique<Worker>(fd, limits, on_notice, shadow_fd, on_found);
    if (int error = worker_->Start(static_cast<size_t>(number(2)), static_cast<uint32_t>(number(7)), static_cast<size_t>(number(8)))) {
      End();
      MakeError(env, {"start of the hold thread", error}).ThrowAsJavaScriptException();
      return;
    }
    // Joins the thread before the environment it calls into is gone.
    napi_add_env_cleanup_hook(env, EndAtExit, this);
    // Held packets depend on it: it ends when it is told to, not when the
    // garbage collector finds that nobody looks at it any more.
    Ref();
  }

  ~TapHold() override { End(); }

 private:
  static void EndAtExit(void* self) { static_cast<TapHold*>(self)->End(); }

  void End() {
    if (!worker_) return;
    napi_remove_env_cleanup_hook(Env(), EndAtExit, this);
    worker_.reset();
    for (Napi::ObjectReference& memory : shared_) memory.Reset();
    notify_.Abort();
    found_.Abort();
  }

  bool Closed(Napi::Env env) {
    if (worker_) return false;
    Napi::Error::New(env, "This hold tap is closed.").ThrowAsJavaScriptException();
    return true;
  }

  void SetWatermark(const Napi::CallbackInfo& info) {
    if (Closed(info.Env())) return;
    bool lossless;
    worker_->SetWatermark(info[0].As<Napi::BigInt>().Uint64Value(&lossless));
  }

  // (timeNs, epoch)
  void Commit(const Napi::CallbackInfo& info) {
    if (Closed(info.Env())) return;
    bool lossless;
    worker_->Commit(info[0].As<Napi::BigInt>().Uint64Value(&lossless), info[1].As<Napi::Number>().Uint32Value());
  }

  void SuspendCompare(const Napi::CallbackInfo& info) {
    if (!Closed(info.Env())) worker_->SuspendCompare();
  }

  // (lateMinNs, lateMaxNs, lateFirstNs, flowBytes, flowPackets), or nothing
  void SetCompare(const Napi::CallbackInfo& info) {
    if (Closed(info.Env())) return;
    if (info.Length() == 0) return worker_->SetCompare(nullptr);
    auto number = [&](size_t i) { return static_cast<uint64_t>(info[i].As<Napi::Number>().Int64Value()); };
    CompareLimits limits{number(0), number(1), number(2), static_cast<uint32_t>(number(3)),
                         static_cast<uint32_t>(number(4))};
    worker_->SetCompare(&limits);
  }

  // (quietNs, mostNs)
  void SetGathering(const Napi::CallbackInfo& info) {
    if (Closed(info.Env())) return;
    auto number = [&](size_t i) { return static_cast<uint64_t>(info[i].As<Napi::Number>().Int64Value()); };
    worker_->SetGathering({number(0), number(1)});
  }

  void Discard(const Napi::CallbackInfo& info) {
    if (!Closed(info.Env())) worker_->Discard();
  }

  // Three Uint8Arrays of 8 bytes, aligned: see Worker::Share; held for as long as
  // the thread may use them.
  void Share(const Napi::CallbackInfo& info) {
    if (Closed(info.Env())) return;
    uint64_t* words[3];
    for (size_t i = 0; i < 3; i++) {
      Napi::Uint8Array memory = info[i].As<Napi::Uint8Array>();
      shared_[i] = Napi::Persistent(memory.As<Napi::Object>());
      words[i] = reinterpret_cast<uint64_t*>(memory.Data());
    }
    worker_->Share(words[0], words[1], words[2]);
  }

  void Close(const Napi::CallbackInfo&) {
    if (!worker_) return;
    End();
    Unref();
  }

  Napi::Value IfIndex(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), ifindex_);
  }

  Napi::Value ShadowIfIndex(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), shadow_ifindex_);
  }

  Napi::Value Stats(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    if (Closed(env)) return env.Undefined();
    taphold::Stats stats = worker_->Snapshot();
    Napi::Object out = Napi::Object::New(env);
    auto set = [&](const char* name, uint64_t value) {
      out.Set(name, Napi::Number::New(env, static_cast<double>(value)));
    };
    set("heldPackets", stats.held_packets);
    set("heldBytes", stats.held_bytes);
    set("receivedPackets", stats.received_packets);
    set("receivedBytes", stats.received_bytes);
    set("releasedPackets", stats.released_packets);
    set("releasedBytes", stats.released_bytes);
    set("discardedPackets", stats.discarded_packets);
    set("malformedPackets", stats.malformed_packets);
    set("failedPackets", stats.failed_packets);
    set("fullEvents", stats.full_events);
    set("holdNsMax", stats.hold_ns_max);
    Napi::Array times = Napi::Array::New(env, kReleases);
    for (uint32_t cause = 0; cause < kReleases; cause++) {
      const HoldTimes& of = stats.hold_times[cause];
      Napi::Object entry = Napi::Object::New(env);
      entry.Set("packets", Numbers(env, of.packets, kHoldBounds + 1));
      entry.Set("totalNs", Napi::Number::New(env, static_cast<double>(of.total_ns)));
      times.Set(cause, entry);
    }
    out.Set("holdTimes", times);
    set("uncomparedPackets", stats.uncompared_packets);
    set("uncomparedNs", stats.uncompared_ns);
    out.Set("compare", ReportStats(env, stats.compare));
    out.Set("deviceLost", Napi::Boolean::New(env, stats.device_lost));
    out.Set("shadowLost", Napi::Boolean::New(env, stats.shadow_lost));
    out.Set("oldestNs", Napi::BigInt::New(env, stats.oldest_ns));
    return out;
  }

  unsigned ifindex_ = 0;
  unsigned shadow_ifindex_ = 0;
  Napi::ThreadSafeFunction notify_;
  Napi::ThreadSafeFunction found_;
  Napi::ObjectReference shared_[3];
  std::unique_ptr<Worker> worker_;
};

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  exports.Set("TapHold", TapHold::Define(env));
  exports.Set("InputLog", DefineInputLog(env));
  exports.Set("holdBoundsNs", Numbers(env, kHoldBoundsNs, kHoldBounds));
  return exports;
}

}  // namespace
}  // namespace taphold

static Napi::Object InitModule(Napi::Env env, Napi::Object exports) {
  return taphold::Init(env, exports);
}

NODE_API_MODULE(tap_hold, InitModule)

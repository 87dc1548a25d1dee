// The Node API over the log thread.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "binding.h"
#include "log_thread.h"

namespace taphold {
namespace {

size_t Size(const Napi::Value& value) { return static_cast<size_t>(value.As<Napi::Number>().Int64Value()); }

uint64_t U64(const Napi::Value& value) {
  bool lossless;
  return value.As<Napi::BigInt>().Uint64Value(&lossless);
}

class InputLogWrap : public Napi::ObjectWrap<InputLogWrap> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "InputLog",
                       {
                           InstanceMethod<&InputLogWrap::Reset>("reset"),
                           InstanceMethod<&InputLogWrap::Forget>("forget"),
                           InstanceMethod<&InputLogWrap::Deliver>("deliver"),
                           InstanceMethod<&InputLogWrap::Suspend>("suspend"),
                           InstanceMethod<&InputLogWrap::Replay>("replay"),
                           InstanceMethod<&InputLogWrap::Stats>("stats"),
                           InstanceMethod<&InputLogWrap::Close>("close"),
                           InstanceAccessor<&InputLogWrap::IfIndex>("ifIndex"),
                       });
  }

  // (name, queuePackets, ringBytes, limitPackets, limitBytes, limitAgeNs, gapNs,
  // gapPackets, notify); the TypeScript side has checked them.
  explicit InputLogWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<InputLogWrap>(info) {
    Napi::Env env = info.Env();
    int fd = -1;
    if (SysError failed = OpenTap(info[0].As<Napi::String>(), info[1].As<Napi::Number>().Uint32Value(),
                                  &fd, &ifindex_)) {
      MakeError(env, failed).ThrowAsJavaScriptException();
      return;
    }
    notify_ = Napi::ThreadSafeFunction::New(env, info[8].As<Napi::Function>(), "input-log", 0, 1);
    notify_.Unref(env);
    LogLimits limits{Size(info[3]), Size(info[4]), U64(info[5]), U64(info[6]), Size(info[7])};
    Napi::ThreadSafeFunction notify = notify_;
    log_ = std::make_unique<InputLog>(fd, limits, [notify](LogNotice notice, uint64_t value) {
      notify.NonBlockingCall([notice, value](Napi::Env env, Napi::Function call) {
        call.Call({Napi::Number::New(env, static_cast<int>(notice)), Napi::BigInt::New(env, value)});
      });
    });
    if (int error = log_->Start(Size(info[2]))) {
      End();
      MakeError(env, {"start of the log thread", error}).ThrowAsJavaScriptException();
      return;
    }
    // Joins the thread before the environment it calls into is gone.
    napi_add_env_cleanup_hook(env, EndAtExit, this);
    // It ends when it is told to, not when the garbage collector finds that
    // nobody looks at it any more.
    Ref();
  }

  ~InputLogWrap() override { End(); }

 private:
  static void EndAtExit(void* self) { static_cast<InputLogWrap*>(self)->End(); }

  void End() {
    if (!log_) return;
    napi_remove_env_cleanup_hook(Env(), EndAtExit, this);
    log_.reset();
    notify_.Abort();
  }

  bool Closed(Napi::Env env) {
    if (log_) return false;
    Napi::Error::New(env, "This input log is closed.").ThrowAsJavaScriptException();
    return true;
  }

  void Reset(const Napi::CallbackInfo& info) {
    if (!Closed(info.Env())) log_->Reset(U64(info[0]), U64(info[1]));
  }

  void Forget(const Napi::CallbackInfo& info) {
    if (!Closed(info.Env())) log_->Forget(U64(info[0]), U64(info[1]));
  }

  void Deliver(const Napi::CallbackInfo& info) { Give(info, &InputLog::Deliver); }

  void Suspend(const Napi::CallbackInfo& info) {
    if (!Closed(info.Env())) log_->Suspend();
  }

  void Replay(const Napi::CallbackInfo& info) { Give(info, &InputLog::Replay); }

  // (flowsFd, generation, totalNs, retryNs, barrierNs, tries)
  void Give(const Napi::CallbackInfo& info, void (InputLog::*give)(int, uint32_t, ReplayLimits)) {
    Napi::Env env = info.Env();
    if (Closed(env)) return;
    int fd = fcntl(info[0].As<Napi::Number>().Int32Value(), F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
      MakeError(env, {"fcntl(F_DUPFD_CLOEXEC)", errno}).ThrowAsJavaScriptException();
      return;
    }
    (log_.get()->*give)(fd, info[1].As<Napi::Number>().Uint32Value(),
                        {U64(info[2]), U64(info[3]), U64(info[4]), info[5].As<Napi::Number>().Uint32Value()});
  }

  void Close(const Napi::CallbackInfo&) {
    if (!log_) return;
    End();
    Unref();
  }

  Napi::Value IfIndex(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), ifindex_); }

  Napi::Value Stats(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    if (Closed(env)) return env.Undefined();
    LogStats stats = log_->Snapshot();
    Napi::Object out = Napi::Object::New(env);
    auto number = [&](Napi::Object to, const char* name, uint64_t value) {
      to.Set(name, Napi::Number::New(env, static_cast<double>(value)));
    };
    auto big = [&](const char* name, uint64_t value) { out.Set(name, Napi::BigInt::New(env, value)); };
    number(out, "loggedPackets", stats.logged_packets);
    number(out, "loggedBytes", stats.logged_bytes);
    big("oldestNs", stats.oldest_ns);
    big("ackedIseq", stats.acked_iseq);
    big("newestIseq", stats.newest_iseq);
    big("epoch", stats.epoch);
    number(out, "receivedPackets", stats.received_packets);
    number(out, "receivedBytes", stats.received_bytes);
    number(out, "forgottenPackets", stats.forgotten_packets);
    number(out, "deliveredPackets", stats.delivered_packets);
    number(out, "duplicatePackets", stats.duplicate_packets);
    number(out, "beyondPackets", stats.beyond_packets);
    number(out, "unexpectedPackets", stats.unexpected_packets);
    number(out, "malformedPackets", stats.malformed_packets);
    number(out, "failedPackets", stats.failed_packets);
    number(out, "fullEvents", stats.full_events);
    number(out, "gaps", stats.gaps);
    number(out, "acks", stats.acks);
    out.Set("deviceLost", Napi::Boolean::New(env, stats.device_lost));
    Napi::Object replay = Napi::Object::New(env);
    number(replay, "loggedFrames", stats.replay.logged_frames);
    number(replay, "liveFrames", stats.replay.live_frames);
    number(replay, "flows", stats.replay.flows);
    number(replay, "repeatedFrames", stats.replay.repeated_frames);
    number(replay, "knownFrames", stats.replay.known_frames);
    number(replay, "abandonedFrames", stats.replay.abandoned_frames);
    number(replay, "flushedFrames", stats.replay.flushed_frames);
    number(replay, "durationNs", stats.replay.duration_ns);
    out.Set("replay", replay);
    return out;
  }

  unsigned ifindex_ = 0;
  Napi::ThreadSafeFunction notify_;
  std::unique_ptr<InputLog> log_;
};

}  // namespace

Napi::Function DefineInputLog(Napi::Env env) { return InputLogWrap::Define(env); }

}  // namespace taphold

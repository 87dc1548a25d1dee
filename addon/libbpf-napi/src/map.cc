#include "map.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "args.h"
#include "error.h"
#include "fd_kind.h"
#include "kernel_abi.h"
#include "link.h"
#include "log_capture.h"

namespace libbpf_napi {

struct Map::Init {
  std::shared_ptr<ObjectState> state;
  bpf_map* map;
  int fd;
};

namespace {

uint64_t RoundUp(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

int PossibleCpus() {
  static const int count = libbpf_num_possible_cpus();
  return count > 0 ? count : 1;
}

bool IsPerCpu(uint32_t type) {
  return type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_PERCPU_ARRAY ||
         type == BPF_MAP_TYPE_LRU_PERCPU_HASH || type == BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE;
}

Napi::Value TypeName(Napi::Env env, uint32_t type) {
  const char* name = libbpf_bpf_map_type_str(static_cast<bpf_map_type>(type));
  return Napi::String::New(env, name != nullptr ? name : "type " + std::to_string(type));
}

}  // namespace

Napi::Function Map::Define(Napi::Env env) {
  return DefineClass(env, "NativeMap",
                     {
                         InstanceMethod<&Map::Info>("info"),
                         InstanceMethod<&Map::FdOf>("fd"),
                         InstanceMethod<&Map::Id>("id"),
                         InstanceMethod<&Map::Close>("close"),
                         InstanceMethod<&Map::Closed>("closed"),
                         InstanceMethod<&Map::InitialValue>("initialValue"),
                         InstanceMethod<&Map::SetInitialValue>("setInitialValue"),
                         InstanceMethod<&Map::SetMaxEntries>("setMaxEntries"),
                         InstanceMethod<&Map::SetValueSize>("setValueSize"),
                         InstanceMethod<&Map::SetPinPath>("setPinPath"),
                         InstanceMethod<&Map::SetAutocreate>("setAutocreate"),
                         InstanceMethod<&Map::SetInner>("setInner"),
                         InstanceMethod<&Map::Reuse>("reuse"),
                         InstanceMethod<&Map::Lookup>("lookup"),
                         InstanceMethod<&Map::LookupAndDelete>("lookupAndDelete"),
                         InstanceMethod<&Map::Update>("update"),
                         InstanceMethod<&Map::Delete>("delete"),
                         InstanceMethod<&Map::NextKey>("nextKey"),
                         InstanceMethod<&Map::LookupBatch>("lookupBatch"),
                         InstanceMethod<&Map::UpdateBatch>("updateBatch"),
                         InstanceMethod<&Map::DeleteBatch>("deleteBatch"),
                         InstanceMethod<&Map::Pin>("pin"),
                         InstanceMethod<&Map::Unpin>("unpin"),
                         InstanceMethod<&Map::Freeze>("freeze"),
                         InstanceMethod<&Map::Mmap>("mmap"),
                         InstanceMethod<&Map::AttachStructOps>("attachStructOps"),
                     });
}

Map::Map(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  Napi::Env env = info.Env();
  info.This().As<Napi::Object>().TypeTag(&kTag);
  auto* init = info[0].As<Napi::External<Init>>().Data();
  state_ = init->state;
  map_ = init->map;
  own_fd_ = std::exchange(init->fd, -1);
  ReadShape(env);
}

Map::~Map() {
  if (own_fd_ >= 0) close(own_fd_);
}

Napi::Value Map::Make(Napi::Env env, std::shared_ptr<ObjectState> state, bpf_map* map) {
  Init init{std::move(state), map, -1};
  return EnvData::Of(env).map_class.New({Napi::External<Init>::New(env, &init)});
}

Napi::Value Map::Make(Napi::Env env, int fd) {
  Init init{nullptr, nullptr, fd};
  Napi::Value handle = EnvData::Of(env).map_class.New({Napi::External<Init>::New(env, &init)});
  if (init.fd >= 0) close(init.fd);
  return handle;
}

Napi::Value Map::Create(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string name = TextOf(info[1]);
  LIBBPF_OPTS(bpf_map_create_opts, opts);
  opts.map_flags = U32(info[5]);
  if (Map* inner = HandleOf<Map>(info[6])) {
    int inner_fd = inner->Fd(env, "create a map of");
    if (inner_fd < 0) return {};
    opts.inner_map_fd = inner_fd;
  }
  int fd = bpf_map_create(static_cast<bpf_map_type>(U32(info[0])), name.c_str(), U32(info[2]),
                          U32(info[3]), U32(info[4]), &opts);
  if (fd < 0) return ThrowBpf(env, "create", Quoted("map", name.c_str()), fd);
  return Make(env, fd);
}

Napi::Value Map::FromPinned(const Napi::CallbackInfo& info) {
  std::string path = TextOf(info[0]);
  int fd = bpf_obj_get(path.c_str());
  std::string subject = Quoted("pinned map", path.c_str());
  if (fd < 0) return ThrowBpf(info.Env(), "open", subject, fd);
  if (!FdIs(fd, "map")) {
    close(fd);
    return ThrowBpf(info.Env(), "open", subject, EINVAL, "this is not a BPF map");
  }
  return Make(info.Env(), fd);
}

Napi::Value Map::FromId(const Napi::CallbackInfo& info) {
  uint32_t id = U32(info[0]);
  int fd = bpf_map_get_fd_by_id(id);
  if (fd < 0) return ThrowBpf(info.Env(), "open", "the map of id " + std::to_string(id), fd);
  return Make(info.Env(), fd);
}

std::string Map::Subject() const { return Quoted("map", name_.c_str()); }

// Sizes as libbpf knows them now (they may be set before load), or as the kernel reports them.
bool Map::ReadShape(Napi::Env env) {
  if (map_ != nullptr) {
    name_ = bpf_map__name(map_);
    type_ = bpf_map__type(map_);
    key_size_ = bpf_map__key_size(map_);
    value_size_ = bpf_map__value_size(map_);
    max_entries_ = bpf_map__max_entries(map_);
    flags_ = bpf_map__map_flags(map_);
    internal_ = bpf_map__is_internal(map_);
    return true;
  }
  bpf_map_info kernel = {};
  uint32_t size = sizeof kernel;
  int error = bpf_map_get_info_by_fd(own_fd_, &kernel, &size);
  if (error != 0) {
    ThrowBpf(env, "open", "map", error);
    return false;
  }
  name_ = kernel.name;
  type_ = kernel.type;
  key_size_ = kernel.key_size;
  value_size_ = kernel.value_size;
  max_entries_ = kernel.max_entries;
  flags_ = kernel.map_flags;
  return true;
}

int Map::Fd(Napi::Env env, const char* operation) const {
  if (map_ == nullptr) {
    if (own_fd_ < 0) ThrowClosed(env, operation, Subject());
    return own_fd_;
  }
  if (!state_->Usable(env, operation, Subject())) return -1;
  // libbpf may hold a placeholder descriptor for a map that does not exist (yet): it is not asked.
  bool exists = reused_ || (state_->loaded && bpf_map__autocreate(map_));
  if (!exists) {
    const char* why = state_->loaded ? "it was not created (autocreate is off)"
                                     : "it does not exist before its object is loaded";
    ThrowBpf(env, operation, Subject(), ENODEV, why);
    return -1;
  }
  return bpf_map__fd(map_);
}

bool Map::BeforeLoad(Napi::Env env, const char* operation) const {
  if (map_ == nullptr) {
    ThrowBpf(env, operation, Subject(), EBUSY, "it already exists in the kernel");
    return false;
  }
  if (!state_->Usable(env, operation, Subject())) return false;
  if (state_->loaded) {
    ThrowBpf(env, operation, Subject(), EBUSY, "this must be done before its object is loaded");
    return false;
  }
  return true;
}

// What one value occupies on the user's side: per-CPU maps hand over all CPUs at once.
uint64_t Map::ValueBytes() const {
  return IsPerCpu(type_) ? RoundUp(value_size_, 8) * PossibleCpus() : value_size_;
}

Napi::Value Map::Info(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (map_ != nullptr && !state_->closed()) ReadShape(env);
  Napi::Object out = Napi::Object::New(env);
  out.Set("name", name_);
  out.Set("typeId", type_);
  out.Set("type", TypeName(env, type_));
  out.Set("keySize", key_size_);
  out.Set("valueSize", value_size_);
  out.Set("valueBytes", static_cast<double>(ValueBytes()));
  out.Set("maxEntries", max_entries_);
  out.Set("flags", flags_);
  out.Set("perCpu", IsPerCpu(type_));
  out.Set("possibleCpus", PossibleCpus());
  out.Set("internal", internal_);
  if (map_ != nullptr && !state_->closed()) {
    out.Set("autocreate", bpf_map__autocreate(map_));
    out.Set("keyTypeId", bpf_map__btf_key_type_id(map_));
    out.Set("valueTypeId", bpf_map__btf_value_type_id(map_));
    const char* pin_path = bpf_map__pin_path(map_);
    if (pin_path != nullptr) out.Set("pinPath", pin_path);
  }
  return out;
}

Napi::Value Map::FdOf(const Napi::CallbackInfo& info) {
  int fd = Fd(info.Env(), "get the descriptor of");
  if (fd < 0) return {};
  return Napi::Number::New(info.Env(), fd);
}

Napi::Value Map::Id(const Napi::CallbackInfo& info) {
  int fd = Fd(info.Env(), "get the id of");
  if (fd < 0) return {};
  bpf_map_info kernel = {};
  uint32_t size = sizeof kernel;
  int error = bpf_map_get_info_by_fd(fd, &kernel, &size);
  if (error != 0) return ThrowBpf(info.Env(), "get the id of", Subject(), error);
  return Napi::Number::New(info.Env(), kernel.id);
}

Napi::Value Map::Close(const Napi::CallbackInfo& info) {
  if (own_fd_ >= 0) close(std::exchange(own_fd_, -1));
  return info.Env().Undefined();
}

Napi::Value Map::Closed(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), map_ != nullptr ? state_->closed() : own_fd_ < 0);
}

Napi::Value Map::InitialValue(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const char* operation = "read the initial value of";
  if (map_ == nullptr) return env.Undefined();
  if (!state_->Usable(env, operation, Subject())) return {};
  size_t size = 0;
  const void* data = bpf_map__initial_value(map_, &size);
  if (data == nullptr) return env.Undefined();
  Napi::Uint8Array bytes = Napi::Uint8Array::New(env, size);
  if (env.IsExceptionPending()) return {};
  memcpy(bytes.Data(), data, size);
  return bytes;
}

Napi::Value Map::SetInitialValue(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const char* operation = "set the initial value of";
  if (!BeforeLoad(env, operation)) return {};
  Bytes bytes = BytesOf(info[0]);
  size_t size = 0;
  void* room = bpf_map__initial_value(map_, &size);
  if (room == nullptr) return ThrowBpf(env, operation, Subject(), EINVAL, "it holds no global data");
  if (size != bytes.size) {
    return ThrowBpf(env, operation, Subject(), EINVAL,
                    "it takes " + std::to_string(size) + " bytes, not " + std::to_string(bytes.size));
  }
  // Not bpf_map__set_initial_value(): that one refuses .kconfig, whose externs may be overridden too.
  memcpy(room, bytes.data, size);
  return env.Undefined();
}

Napi::Value Map::SetMaxEntries(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!BeforeLoad(env, "resize")) return {};
  int error = bpf_map__set_max_entries(map_, U32(info[0]));
  if (error != 0) return ThrowBpf(env, "resize", Subject(), error);
  return env.Undefined();
}

Napi::Value Map::SetValueSize(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const char* operation = "set the value size of";
  if (!BeforeLoad(env, operation)) return {};
  int error = bpf_map__set_value_size(map_, U32(info[0]));
  if (error != 0) return ThrowBpf(env, operation, Subject(), error);
  return env.Undefined();
}

Napi::Value Map::SetPinPath(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const char* operation = "set the pin path of";
  if (!BeforeLoad(env, operation)) return {};
  std::optional<std::string> path = OptionalText(info[0]);
  int error = bpf_map__set_pin_path(map_, OrNull(path));
  if (error != 0) return ThrowBpf(env, operation, Subject(), error);
  return env.Undefined();
}

Napi::Value Map::SetAutocreate(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const char* operation = "set autocreate of";
  if (!BeforeLoad(env, operation)) return {};
  int error = bpf_map__set_autocreate(map_, Flag(info[0]));
  if (error != 0) return ThrowBpf(env, operation, Subject(), error);
  return env.Undefined();
}

Napi::Value Map::SetInner(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const char* operation = "set the inner map of";
  if (!BeforeLoad(env, operation)) return {};
  Map* inner = HandleOf<Map>(info[0]);
  if (inner == nullptr) return ThrowBpf(env, operation, Subject(), EINVAL);
  int inner_fd = inner->Fd(env, "use");
  if (inner_fd < 0) return {};
  // libbpf reads the descriptor at load; until then the caller may have closed its handle.
  int own = fcntl(inner_fd, F_DUPFD_CLOEXEC, 0);
  int error = own < 0 ? -errno : bpf_map__set_inner_map_fd(map_, own);
  if (own >= 0) state_->Adopt(own);
  if (error != 0) {
    return ThrowBpf(env, operation, Subject(), error, "it is no map of maps, or already has one");
  }
  return env.Undefined();
}

Napi::Value Map::Reuse(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!BeforeLoad(env, "reuse a map for")) return {};
  Map* other = HandleOf<Map>(info[0]);
  if (other == nullptr) return ThrowBpf(env, "reuse a map for", Subject(), EINVAL);
  int fd = other->Fd(env, "reuse");
  if (fd < 0) return {};
  LogCapture capture;
  int error = bpf_map__reuse_fd(map_, fd);
  if (error != 0) return ThrowBpf(env, "reuse a map for", Subject(), error, capture.text());
  reused_ = true;
  ReadShape(env);
  return env.Undefined();
}

Napi::Value Map::Pin(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string path = TextOf(info[0]);
  int fd = Fd(env, "pin");
  if (fd < 0) return {};
  LogCapture capture;
  int error = map_ != nullptr ? bpf_map__pin(map_, path.c_str()) : bpf_obj_pin(fd, path.c_str());
  if (error != 0) return ThrowBpf(env, "pin", Subject() + " at " + path, error, capture.text());
  return env.Undefined();
}

Napi::Value Map::Unpin(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::string path = TextOf(info[0]);
  if (Fd(env, "unpin") < 0) return {};
  LogCapture capture;
  int error = map_ != nullptr         ? bpf_map__unpin(map_, path.c_str())
              : unlink(path.c_str()) != 0 ? -errno
                                      : 0;
  if (error != 0) return ThrowBpf(env, "unpin", Subject() + " at " + path, error, capture.text());
  return env.Undefined();
}

Napi::Value Map::Freeze(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = Fd(env, "freeze");
  if (fd < 0) return {};
  int error = bpf_map_freeze(fd);
  if (error != 0) return ThrowBpf(env, "freeze", Subject(), error);
  return env.Undefined();
}

// The map's memory itself as an ArrayBuffer. The mapping holds the map in the kernel and lives as
// long as the ArrayBuffer, not the handle: no close can pull it from under a view.
Napi::Value Map::Mmap(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = Fd(env, "map");
  if (fd < 0) return {};
  uint64_t stride = RoundUp(value_size_, 8);
  uint64_t view = max_entries_ == 1 ? value_size_ : stride * max_entries_;
  size_t mapped = RoundUp(stride * max_entries_, sysconf(_SC_PAGESIZE));
  if (type_ != BPF_MAP_TYPE_ARRAY || (flags_ & BPF_F_MMAPABLE) == 0) {
    return ThrowBpf(env, "map", Subject(), EINVAL, "only an array map with BPF_F_MMAPABLE has memory to map");
  }
  void* memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    int error = errno;
    if (error != EPERM || (flags_ & BPF_F_RDONLY_PROG) == 0) {
      return ThrowBpf(env, "map", Subject(), error, error == EPERM ? "it is frozen" : "");
    }
    // Frozen and read-only for programs: it can never change again. JavaScript cannot be kept from
    // writing to an ArrayBuffer, and a write to read-only memory would kill the process: a copy.
    Napi::ArrayBuffer copy = Napi::ArrayBuffer::New(env, stride * max_entries_);
    if (env.IsExceptionPending()) return {};
    auto* to = static_cast<uint8_t*>(copy.Data());
    for (uint32_t index = 0; index < max_entries_; index++) {
      error = bpf_map_lookup_elem(fd, &index, to + stride * index);
      if (error != 0) return ThrowBpf(env, "map", Subject(), error);
    }
    return Napi::Uint8Array::New(env, view, copy, 0);
  }
  Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(
      env, memory, stride * max_entries_,
      [](Napi::Env, void* data, size_t* size) {
        munmap(data, *size);
        delete size;
      },
      new size_t(mapped));
  if (env.IsExceptionPending()) return {};
  return Napi::Uint8Array::New(env, view, buffer, 0);
}

Napi::Value Map::AttachStructOps(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (Fd(env, "attach") < 0) return {};
  if (map_ == nullptr) return ThrowBpf(env, "attach", Subject(), EINVAL, "it belongs to no object");
  LogCapture capture;
  bpf_link* link = bpf_map__attach_struct_ops(map_);
  if (link == nullptr) return ThrowBpf(env, "attach", Subject(), errno, capture.text());
  return Link::Make(env, link, state_);
}

}  // namespace libbpf_napi

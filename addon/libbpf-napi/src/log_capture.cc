#include "log_capture.h"

#include <bpf/libbpf.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <mutex>

namespace libbpf_napi {

namespace {
thread_local LogCapture* current = nullptr;

// A verifier log is at most 16 MiB on old kernels and as large as the buffer on new ones. Beyond
// this nobody reads it.
constexpr size_t kMaxBytes = 64u << 20;
}  // namespace

struct PrintCallback {
  static int Print(enum libbpf_print_level level, const char* format, va_list args) {
    LogCapture* capture = current;
    if (capture == nullptr) return 0;
    if (level == LIBBPF_DEBUG &&
        !(capture->verifier_on_success_ && strstr(format, "BEGIN PROG LOAD LOG") != nullptr)) {
      return 0;
    }
    va_list again;
    va_copy(again, args);
    int need = vsnprintf(nullptr, 0, format, again);
    va_end(again);
    if (need <= 0) return 0;
    std::string& text = capture->text_;
    size_t start = text.size();
    if (start + need > kMaxBytes) return 0;
    text.resize(start + need + 1);
    vsnprintf(&text[start], need + 1, format, args);
    text.resize(start + need);
    return need;
  }
};

LogCapture::LogCapture(bool verifier_on_success)
    : outer_(current), verifier_on_success_(verifier_on_success) {
  current = this;
}

LogCapture::~LogCapture() { current = outer_; }

void LogCapture::Install() {
  static std::once_flag once;
  std::call_once(once, [] { libbpf_set_print(PrintCallback::Print); });
}

}  // namespace libbpf_napi

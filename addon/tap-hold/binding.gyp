{
  "targets": [
    {
      "target_name": "tap_hold",
      "sources": [
        "src/binding.cc",
        "src/compare.cc",
        "src/compare_flow.cc",
        "src/compare_packet.cc",
        "src/compare_port.cc",
        "src/compare_report.cc",
        "src/held_packet.cc",
        "src/log_binding.cc",
        "src/log_frame.cc",
        "src/log_replay.cc",
        "src/log_thread.cc",
        "src/log_tracker.cc",
        "src/queue.cc",
        "src/tap.cc",
        "src/worker.cc"
      ],
      "include_dirs": ["<!@(node -p \"require('node-addon-api').include\")", "../../bpf"],
      # A notice may meet a worker that is being terminated: no JavaScript runs there any more.
      "defines": [
        "NAPI_VERSION=8",
        "NAPI_DISABLE_CPP_EXCEPTIONS",
        "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"
      ],
      "cflags_cc": ["-std=c++17", "-O2", "-Wall", "-Wextra", "-fno-exceptions"]
    }
  ]
}

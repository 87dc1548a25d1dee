{
  "targets": [
    {
      "target_name": "thread_sched",
      "sources": ["src/thread_sched.c"],
      "defines": ["NAPI_VERSION=8"],
      "cflags_c": ["-std=gnu11", "-O2", "-Wall", "-Wextra"]
    }
  ]
}

{
  "targets": [
    {
      # Not for Node.js, though built like its add-ons: QEMU loads it.
      "target_name": "retranslate",
      "sources": ["src/retranslate.c"],
      "cflags": ["-std=gnu11", "-O2", "-Wall", "-Wextra"]
    }
  ]
}

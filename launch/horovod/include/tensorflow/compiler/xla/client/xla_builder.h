// Found on CPLUS_INCLUDE_PATH while Horovod 0.28.1 is compiled (launch/horovod/build.sh).
// TensorFlow moved this header; Horovod's xla_mpi_ops.cc still asks for the old place.
#pragma once
#include "xla/hlo/builder/xla_builder.h"

// With HAVE_GPU that file also uses xla::StatusOr and a logging symbol that TensorFlow's
// library no longer exports, so the built library would not load. Without it, Horovod's
// optional XLA custom calls stay out of that one file; all else keeps its GPU code.
#undef HAVE_GPU

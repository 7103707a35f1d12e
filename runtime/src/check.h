/*!
 * \file check.h
 * \brief Errors that users read.
 */
#ifndef HETERO_TVM_RUNTIME_CHECK_H_
#define HETERO_TVM_RUNTIME_CHECK_H_

#include <tvm/ffi/error.h>

/*!
 * \brief Throw a `kind` with the text streamed in unless `condition` holds.
 *
 * Unlike TVM_FFI_CHECK the message begins with that text. Kinds: ValueError and TypeError for a
 * wrong argument, EnvironmentProblem and DeviceFailure as in hetero_tvm/errors.py.
 */
#define HETERO_CHECK(condition, kind) \
  if (condition) {                    \
  } else                              \
    TVM_FFI_THROW(kind)

#endif  // HETERO_TVM_RUNTIME_CHECK_H_

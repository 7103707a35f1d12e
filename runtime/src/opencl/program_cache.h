/*!
 * \file opencl/program_cache.h
 * \brief OpenCL programs, compiled once per device and driver and kept on disk.
 */
#ifndef HETERO_TVM_RUNTIME_OPENCL_PROGRAM_CACHE_H_
#define HETERO_TVM_RUNTIME_OPENCL_PROGRAM_CACHE_H_

#include <optional>
#include <string>
#include <string_view>

#include "../counters.h"
#include "cl_api.h"
#include "platforms.h"

namespace hetero_tvm::runtime::opencl {

/*!
 * \brief Source to program. Thread-safe: keeps no state of its own that changes.
 *
 * An entry's file carries all that its binary depends on (device, driver, options, source) and is
 * used only when that is what is asked for, byte by byte; its checksum must hold too, because a
 * driver may crash on a damaged binary. Files are written beside and renamed, so several processes
 * may share the directory.
 */
class ProgramCache {
 public:
  /*! \param directory Made when needed. Empty, or not writable: nothing is kept. */
  ProgramCache(const ClDevice& device, cl_context context, std::string directory,
               Counters& counters);

  /*!
   * \brief A built program for `source`.
   *
   * Throws DeviceFailure with the first lines of the compiler's log when it does not compile.
   * \param name Of the kernel, for errors.
   */
  ClHandle<cl_program> Build(const std::string& name, std::string_view source) const;

 private:
  std::string Identity(std::string_view source) const;
  std::optional<std::string> ReadBinary(const std::string& path, const std::string& identity) const;
  void WriteBinary(const std::string& path, const std::string& identity, cl_program program) const;
  ClHandle<cl_program> FromBinary(const std::string& binary) const;
  ClHandle<cl_program> FromSource(const std::string& name, std::string_view source) const;

  const ClDevice& device_;
  const ClApi& api_;
  const cl_context context_;
  const std::string directory_;
  Counters& counters_;
};

}  // namespace hetero_tvm::runtime::opencl

#endif  // HETERO_TVM_RUNTIME_OPENCL_PROGRAM_CACHE_H_

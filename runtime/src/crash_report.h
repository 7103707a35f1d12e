/*!
 * \file crash_report.h
 * \brief What a process was at, for the report of one that a signal ends.
 */
#ifndef HETERO_TVM_RUNTIME_CRASH_REPORT_H_
#define HETERO_TVM_RUNTIME_CRASH_REPORT_H_

#include <string>

namespace hetero_tvm::runtime {

/*!
 * \brief Notes of what goes on, in a file that outlives the process.
 *
 * Until Install nothing is kept. After it a launch keeps its kernel's name, which takes a few
 * nanoseconds; all else is written when a signal comes.
 */
class CrashReport {
 public:
  /*!
   * \brief Have signals that end the process write to `fd`, then do what they did before.
   *
   * \param fd Stays open for the life of the process.
   */
  static void Install(int fd);

  /*! \brief Write one line now: a driver, a device. */
  static void Note(const std::string& line) noexcept;

  /*! \brief The kernel that was launched last. */
  static void LastKernel(const std::string& name) noexcept;
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_CRASH_REPORT_H_

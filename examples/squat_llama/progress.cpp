#include "progress.hpp"

#include <unistd.h>

#include <cstdio>

namespace squat_llama {

ProgressBar::ProgressBar() : is_terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (is_terminal_) std::fputs("\r\033[K", stderr);
}

void ProgressBar::show(double done, const std::string& what) {
  constexpr double redraw_seconds = 0.1;
  constexpr int width = 30;
  const double elapsed =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  if (!is_terminal_ || done <= 0 || elapsed < drawn_at_ + redraw_seconds) return;
  drawn_at_ = elapsed;
  const int left = static_cast<int>(elapsed * (1 - done) / done);
  const std::string bar(static_cast<std::size_t>(done * width), '#');
  std::fprintf(stderr, "\r[%-*s] %3.0f %%  %d:%02d left  %s\033[K", width, bar.c_str(), 100 * done,
               left / 60, left % 60, what.c_str());
  std::fflush(stderr);
}

}  // namespace squat_llama

#include <cstdio>
#include <map>
#include <memory>
#include <sstream>

#include "report.hpp"
#include "require.hpp"

namespace squat_llama {
namespace {

std::string terminal_of(const std::string& path) {
  const std::map<std::string, std::string> terminals = {
      {".png", "pngcairo size 1100,700 font 'sans,12'"},
      {".svg", "svg size 1100,700 font 'sans,14' background 'white'"},
      {".pdf", "pdfcairo size 11,7 font 'sans,12'"}};
  const std::size_t dot = path.rfind('.');
  const auto found = terminals.find(dot == std::string::npos ? "" : path.substr(dot));
  require(found != terminals.end(), "the picture's name is ", path,
          "; it must end in .pdf, .png or .svg");
  return found->second;
}

constexpr const char* by_layer = "squat+, bits by layer";

/// Caches of a kind share a colour.
std::string family_of(const std::string& cache) {
  if (cache.find(",layer_costs=") != std::string::npos) return by_layer;
  for (const char* family : {"squat+", "squat", "kivi", "turbo"}) {
    if (cache.rfind(family, 0) == 0) return family;
  }
  return "ggml";
}

/// gnuplot's quoting: the text goes inside double quotes, without its markup.
std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

std::string script(const std::string& path, const std::vector<CacheResult>& results) {
  std::map<std::string, std::ostringstream> families;
  for (const CacheResult& result : results) {
    const double divergence = result.quality.mean_divergence();
    if (divergence <= 0) continue;  // has no place on a logarithmic axis
    const std::string family = family_of(result.cache);
    // Its points lie below those of squat+ at the same bits, whose labels serve both.
    families[family] << result.bytes.bits_per_element() << " " << divergence << " "
                     << quoted(family == by_layer ? "" : result.cache) << "\n";
  }
  require(!families.empty(), "no cache differs from full precision; nothing to draw");
  std::ostringstream out;
  out << "set terminal " << terminal_of(path) << " noenhanced\nset output " << quoted(path)
      << "\nset linetype 5 lc rgb '#c02020'"  // in place of yellow on white
         "\nset logscale y\nset format y '%g'\nset grid lc rgb '#dddddd'\nset offsets 0.3, 1.5, 0, "
         "0"
         "\nset xlabel 'bits per element'\nset ylabel 'mean KL divergence of the next token (nats)'"
         "\nset key top right\n";
  std::string plots;
  int colour = 0;
  for (const auto& [family, rows] : families) {
    const std::string data = "$family" + std::to_string(++colour);
    out << data << " << END\n" << rows.str() << "END\n";
    const std::string colour_name = " lt " + std::to_string(colour);
    const std::string height = family == "kivi" ? "-0.6" : "0.4";  // often in the place of squat's
    const bool is_line = family.rfind("squat+", 0) == 0;
    const std::string style = is_line ? " with linespoints" : " with points";
    plots += (plots.empty() ? "plot " : ", ") + data + " using 1:2" + style + colour_name +
             " pt 7 ps 1.4 title '" + family + "', " + data +
             " using 1:2:3 with labels left offset 1," + height + " tc" + colour_name + " notitle";
  }
  return out.str() + plots + "\n";
}

}  // namespace

void write_plot(const std::string& path, const std::vector<CacheResult>& results) {
  const std::string commands = script(path, results);
  FILE* gnuplot = popen("gnuplot", "w");
  require(gnuplot != nullptr, "cannot start gnuplot");
  std::fputs(commands.c_str(), gnuplot);
  require(pclose(gnuplot) == 0, "gnuplot could not draw ", path,
          " (is it installed? Debian's package is gnuplot-nox)");
}

}  // namespace squat_llama
